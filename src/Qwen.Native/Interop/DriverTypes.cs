using System.Runtime.InteropServices;

namespace Qwen.Native.Interop;

/// <summary>CUresult: those that are told apart here. The driver names the others.</summary>
internal enum CuResult
{
    Success = 0,
    InvalidValue = 1,
    OutOfMemory = 2,
    NoDevice = 100,
    InvalidContext = 201,
    EccUncorrectable = 214,
    NotFound = 500,
    NotReady = 600,
    IllegalAddress = 700,
    LaunchTimeout = 702,
    ContextIsDestroyed = 709,
    Assert = 710,
    HardwareStackError = 714,
    LaunchFailed = 719,
}

/// <summary>CUdevice_attribute.</summary>
internal enum DeviceAttribute
{
    MultiprocessorCount = 16,
    L2CacheSize = 38,
    MaxThreadsPerMultiprocessor = 39,
    ComputeCapabilityMajor = 75,
    ComputeCapabilityMinor = 76,
    MaxSharedMemoryPerMultiprocessor = 81,
    MaxSharedMemoryPerBlockOptin = 97,
}

/// <summary>CUjit_option.</summary>
internal enum JitOption
{
    InfoLogBuffer = 3,
    InfoLogBufferSizeBytes = 4,
    ErrorLogBuffer = 5,
    ErrorLogBufferSizeBytes = 6,
}

/// <summary>CUfunction_attribute.</summary>
internal enum FunctionAttribute
{
    SharedSizeBytes = 1,
    LocalSizeBytes = 3,
    NumRegs = 4,
    MaxDynamicSharedSizeBytes = 8,
    PreferredSharedMemoryCarveout = 9, // percent
}

/// <summary>CUlaunchAttributeID.</summary>
internal enum LaunchAttributeId
{
    ProgrammaticStreamSerialization = 6,
}

/// <summary>CUstream_flags.</summary>
[Flags]
internal enum StreamFlags : uint
{
    Default = 0,
    NonBlocking = 1,
}

/// <summary>CUevent_flags.</summary>
[Flags]
internal enum EventFlags : uint
{
    Default = 0,
}

/// <summary>Flags of cuMemHostAlloc.</summary>
[Flags]
internal enum HostAllocFlags : uint
{
    Default = 0,
    Portable = 1,
}

/// <summary>CUstreamCaptureMode.</summary>
internal enum CaptureMode
{
    Global = 0,
    ThreadLocal = 1,
    Relaxed = 2,
}

/// <summary>CUlaunchAttribute: an id, and a union of 64 bytes of which one int is used here.</summary>
[StructLayout(LayoutKind.Explicit, Size = 72)]
internal struct LaunchAttribute
{
    [FieldOffset(0)]
    public LaunchAttributeId Id;

    [FieldOffset(8)]
    public int Value;
}

/// <summary>CUlaunchConfig.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct LaunchConfig
{
    public uint GridX;
    public uint GridY;
    public uint GridZ;
    public uint BlockX;
    public uint BlockY;
    public uint BlockZ;
    public uint SharedBytes;
    public nint Stream;
    public LaunchAttribute* Attributes;
    public uint AttributeCount;
}
