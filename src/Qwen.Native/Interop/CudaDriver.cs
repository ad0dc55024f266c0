using System.Runtime.InteropServices;

namespace Qwen.Native.Interop;

/// <summary>
/// The CUDA driver API, in the order of its reference manual: what the device uses of it. Where an entry has a <c>_v2</c>, the plain name is
/// an ABI of CUDA 3 with 32-bit sizes.
/// </summary>
internal static unsafe partial class CudaDriver
{
    private const string Library = NativeLibraries.Driver;

    static CudaDriver() => NativeLibraries.Register();

    // Errors

    [LibraryImport(Library, EntryPoint = "cuGetErrorName")]
    private static partial CuResult GetErrorName(CuResult error, out byte* text);

    [LibraryImport(Library, EntryPoint = "cuGetErrorString")]
    private static partial CuResult GetErrorString(CuResult error, out byte* text);

    /// <summary>Such as CUDA_ERROR_OUT_OF_MEMORY.</summary>
    public static string ErrorName(CuResult error) => GetErrorName(error, out byte* text) == CuResult.Success ? Marshal.PtrToStringUTF8((nint)text)! : "unknown CUresult";

    /// <summary>The driver's sentence about it.</summary>
    public static string ErrorMeaning(CuResult error) => GetErrorString(error, out byte* text) == CuResult.Success ? Marshal.PtrToStringUTF8((nint)text)! : "";

    // Initialization, version, devices

    [LibraryImport(Library, EntryPoint = "cuInit")]
    internal static partial CuResult Init(uint flags);

    [LibraryImport(Library, EntryPoint = "cuDriverGetVersion")]
    internal static partial CuResult DriverGetVersion(out int version);

    [LibraryImport(Library, EntryPoint = "cuDeviceGet")]
    internal static partial CuResult DeviceGet(out int device, int ordinal);

    [LibraryImport(Library, EntryPoint = "cuDeviceGetCount")]
    internal static partial CuResult DeviceGetCount(out int count);

    [LibraryImport(Library, EntryPoint = "cuDeviceGetName")]
    internal static partial CuResult DeviceGetName(byte* name, int length, int device);

    [LibraryImport(Library, EntryPoint = "cuDeviceTotalMem_v2")]
    internal static partial CuResult DeviceTotalMem(out nuint bytes, int device);

    [LibraryImport(Library, EntryPoint = "cuDeviceGetAttribute")]
    internal static partial CuResult DeviceGetAttribute(out int value, DeviceAttribute attribute, int device);

    // Contexts

    [LibraryImport(Library, EntryPoint = "cuDevicePrimaryCtxRetain")]
    internal static partial CuResult DevicePrimaryCtxRetain(out nint context, int device);

    [LibraryImport(Library, EntryPoint = "cuDevicePrimaryCtxRelease_v2")]
    internal static partial CuResult DevicePrimaryCtxRelease(int device);

    [LibraryImport(Library, EntryPoint = "cuCtxSetCurrent")]
    internal static partial CuResult CtxSetCurrent(nint context);

    // Modules

    [LibraryImport(Library, EntryPoint = "cuModuleLoadDataEx")]
    internal static partial CuResult ModuleLoadDataEx(out CudaModuleHandle module, byte* image, uint optionCount, JitOption* options, void** values);

    [LibraryImport(Library, EntryPoint = "cuModuleUnload")]
    internal static partial CuResult ModuleUnload(nint module);

    [LibraryImport(Library, EntryPoint = "cuModuleGetFunction", StringMarshalling = StringMarshalling.Utf8)]
    internal static partial CuResult ModuleGetFunction(out nint function, CudaModuleHandle module, string name);

    // Memory

    [LibraryImport(Library, EntryPoint = "cuMemGetInfo_v2")]
    internal static partial CuResult MemGetInfo(out nuint free, out nuint total);

    [LibraryImport(Library, EntryPoint = "cuMemAlloc_v2")]
    internal static partial CuResult MemAlloc(out ulong pointer, nuint bytes);

    [LibraryImport(Library, EntryPoint = "cuMemFree_v2")]
    internal static partial CuResult MemFree(ulong pointer);

    [LibraryImport(Library, EntryPoint = "cuMemHostAlloc")]
    internal static partial CuResult MemHostAlloc(out void* pointer, nuint bytes, HostAllocFlags flags);

    [LibraryImport(Library, EntryPoint = "cuMemFreeHost")]
    internal static partial CuResult MemFreeHost(void* pointer);

    [LibraryImport(Library, EntryPoint = "cuMemcpyHtoDAsync_v2")]
    internal static partial CuResult MemcpyHtoDAsync(ulong to, void* from, nuint bytes, CudaStreamHandle stream);

    [LibraryImport(Library, EntryPoint = "cuMemcpyDtoHAsync_v2")]
    internal static partial CuResult MemcpyDtoHAsync(void* to, ulong from, nuint bytes, CudaStreamHandle stream);

    [LibraryImport(Library, EntryPoint = "cuMemcpyDtoDAsync_v2")]
    internal static partial CuResult MemcpyDtoDAsync(ulong to, ulong from, nuint bytes, CudaStreamHandle stream);

    [LibraryImport(Library, EntryPoint = "cuMemsetD8Async")]
    internal static partial CuResult MemsetD8Async(ulong to, byte value, nuint count, CudaStreamHandle stream);

    // Streams

    [LibraryImport(Library, EntryPoint = "cuStreamCreate")]
    internal static partial CuResult StreamCreate(out CudaStreamHandle stream, StreamFlags flags);

    [LibraryImport(Library, EntryPoint = "cuStreamDestroy_v2")]
    internal static partial CuResult StreamDestroy(nint stream);

    [LibraryImport(Library, EntryPoint = "cuStreamSynchronize")]
    internal static partial CuResult StreamSynchronize(CudaStreamHandle stream);

    [LibraryImport(Library, EntryPoint = "cuStreamWaitEvent")]
    internal static partial CuResult StreamWaitEvent(CudaStreamHandle stream, CudaEventHandle mark, uint flags);

    [LibraryImport(Library, EntryPoint = "cuStreamBeginCapture_v2")]
    internal static partial CuResult StreamBeginCapture(CudaStreamHandle stream, CaptureMode mode);

    [LibraryImport(Library, EntryPoint = "cuStreamEndCapture")]
    internal static partial CuResult StreamEndCapture(CudaStreamHandle stream, out CudaGraphHandle graph);

    // Events

    [LibraryImport(Library, EntryPoint = "cuEventCreate")]
    internal static partial CuResult EventCreate(out CudaEventHandle mark, EventFlags flags);

    [LibraryImport(Library, EntryPoint = "cuEventDestroy_v2")]
    internal static partial CuResult EventDestroy(nint mark);

    [LibraryImport(Library, EntryPoint = "cuEventRecord")]
    internal static partial CuResult EventRecord(CudaEventHandle mark, CudaStreamHandle stream);

    [LibraryImport(Library, EntryPoint = "cuEventQuery")]
    internal static partial CuResult EventQuery(CudaEventHandle mark);

    [LibraryImport(Library, EntryPoint = "cuEventSynchronize")]
    internal static partial CuResult EventSynchronize(CudaEventHandle mark);

    [LibraryImport(Library, EntryPoint = "cuEventElapsedTime")]
    internal static partial CuResult EventElapsedTime(out float milliseconds, CudaEventHandle start, CudaEventHandle end);

    // Execution

    [LibraryImport(Library, EntryPoint = "cuFuncGetAttribute")]
    internal static partial CuResult FuncGetAttribute(out int value, FunctionAttribute attribute, nint function);

    [LibraryImport(Library, EntryPoint = "cuFuncSetAttribute")]
    internal static partial CuResult FuncSetAttribute(nint function, FunctionAttribute attribute, int value);

    [LibraryImport(Library, EntryPoint = "cuLaunchKernel")]
    internal static partial CuResult LaunchKernel(
        nint function, uint gridX, uint gridY, uint gridZ, uint blockX, uint blockY, uint blockZ, uint sharedBytes, CudaStreamHandle stream, void** parameters, void** extra);

    [LibraryImport(Library, EntryPoint = "cuLaunchKernelEx")]
    internal static partial CuResult LaunchKernelEx(LaunchConfig* config, nint function, void** parameters, void** extra);

    [LibraryImport(Library, EntryPoint = "cuOccupancyMaxActiveBlocksPerMultiprocessor")]
    internal static partial CuResult OccupancyMaxActiveBlocksPerMultiprocessor(out int blocks, nint function, int threads, nuint dynamicSharedBytes);

    // Graphs

    [LibraryImport(Library, EntryPoint = "cuGraphGetNodes")]
    internal static partial CuResult GraphGetNodes(CudaGraphHandle graph, nint* nodes, ref nuint count);

    [LibraryImport(Library, EntryPoint = "cuGraphDestroy")]
    internal static partial CuResult GraphDestroy(nint graph);

    [LibraryImport(Library, EntryPoint = "cuGraphInstantiateWithFlags")]
    internal static partial CuResult GraphInstantiateWithFlags(out CudaGraphExecHandle executable, CudaGraphHandle graph, ulong flags);

    [LibraryImport(Library, EntryPoint = "cuGraphUpload")]
    internal static partial CuResult GraphUpload(CudaGraphExecHandle executable, CudaStreamHandle stream);

    [LibraryImport(Library, EntryPoint = "cuGraphLaunch")]
    internal static partial CuResult GraphLaunch(CudaGraphExecHandle executable, CudaStreamHandle stream);

    [LibraryImport(Library, EntryPoint = "cuGraphExecDestroy")]
    internal static partial CuResult GraphExecDestroy(nint executable);
}
