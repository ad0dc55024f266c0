using System.Runtime.InteropServices;
using Qwen.Native.Blas;
using Qwen.Native.Device;
using Qwen.Native.Interop;
using Qwen.Native.Tests.Interop;

namespace Qwen.Native.Tests.Blas;

/// <summary>Descriptors of the real library, which it makes and reads without a GPU.</summary>
public sealed unsafe partial class CublasLtMarshallingTests
{
    [LibraryImport("cublasLt-under-test", EntryPoint = "cublasLtMatmulDescGetAttribute")]
    private static partial CublasStatus MatmulDescGetAttribute(nint descriptor, CublasLtMatmulAttribute attribute, void* value, nuint bytes, out nuint written);

    [LibraryImport("cublasLt-under-test", EntryPoint = "cublasLtMatrixLayoutGetAttribute")]
    private static partial CublasStatus MatrixLayoutGetAttribute(nint layout, int attribute, void* value, nuint bytes, out nuint written);

    [LibraryImport("cublasLt-under-test", EntryPoint = "cublasLtMatmulPreferenceGetAttribute")]
    private static partial CublasStatus MatmulPreferenceGetAttribute(nint preference, CublasLtPreferenceAttribute attribute, void* value, nuint bytes, out nuint written);

    static CublasLtMarshallingTests() => NativeLibrary.SetDllImportResolver(
        typeof(CublasLtMarshallingTests).Assembly, (name, _, _) => name == "cublasLt-under-test" ? NativeLibraries.Load(NativeLibraries.BlasLt).Handle : 0);

    [SkippableTheory]
    [InlineData(CublasLtMatmulAttribute.TransposeA, 4)]
    [InlineData(CublasLtMatmulAttribute.TransposeB, 4)]
    [InlineData(CublasLtMatmulAttribute.Epilogue, 4)]
    [InlineData(CublasLtMatmulAttribute.BiasPointer, 8)]
    [InlineData(CublasLtMatmulAttribute.AScalePointer, 8)]
    [InlineData(CublasLtMatmulAttribute.BScalePointer, 8)]
    [InlineData(CublasLtMatmulAttribute.BiasDataType, 4)]
    public void DescriptorAttributes_HaveTheSizesWeSet_AndComeBack(object boxed, int bytes)
    {
        Checkers.Need(NativeLibraries.BlasLt);
        var attribute = (CublasLtMatmulAttribute)boxed;
        CublasLtApi.MatmulDescCreate(out MatmulDescHandle descriptor, CublasComputeType.F32, CudaDataType.F32).Check();
        using (descriptor)
        {
            Assert.Equal(CublasStatus.Success, MatmulDescGetAttribute(descriptor.DangerousGetHandle(), attribute, null, 0, out nuint size));
            Assert.Equal((nuint)bytes, size);

            long value = attribute switch { CublasLtMatmulAttribute.Epilogue => (long)CublasLtEpilogue.Bias, CublasLtMatmulAttribute.BiasDataType => (long)CudaDataType.BF16, _ => 1 };
            CublasLtApi.MatmulDescSetAttribute(descriptor, attribute, &value, size).Check();
            long read = 0;
            Assert.Equal(CublasStatus.Success, MatmulDescGetAttribute(descriptor.DangerousGetHandle(), attribute, &read, size, out _));
            Assert.Equal(value, read);
            Assert.Equal(CublasStatus.InvalidValue, CublasLtApi.MatmulDescSetAttribute(descriptor, attribute, &value, 3));
        }
    }

    [SkippableTheory]
    [InlineData(CublasLtPreferenceAttribute.MaxWorkspaceBytes, 8)]
    [InlineData(CublasLtPreferenceAttribute.ReductionSchemeMask, 4)]
    [InlineData(CublasLtPreferenceAttribute.MinAlignmentA, 4)]
    [InlineData(CublasLtPreferenceAttribute.MinAlignmentB, 4)]
    [InlineData(CublasLtPreferenceAttribute.MinAlignmentC, 4)]
    [InlineData(CublasLtPreferenceAttribute.MinAlignmentD, 4)]
    public void PreferenceAttributes_HaveTheSizesWeSet_AndComeBack(object boxed, int bytes)
    {
        Checkers.Need(NativeLibraries.BlasLt);
        var attribute = (CublasLtPreferenceAttribute)boxed;
        CublasLtApi.MatmulPreferenceCreate(out MatmulPreferenceHandle preference).Check();
        using (preference)
        {
            long value = 2, read = 0;
            CublasLtApi.MatmulPreferenceSetAttribute(preference, attribute, &value, (nuint)bytes).Check();
            Assert.Equal(CublasStatus.Success, MatmulPreferenceGetAttribute(preference.DangerousGetHandle(), attribute, &read, (nuint)bytes, out nuint written));
            Assert.Equal((value, (nuint)bytes), (read, written));
        }
    }

    [SkippableFact]
    public void Layouts_SayRowsColumnsAndStride()
    {
        Checkers.Need(NativeLibraries.BlasLt);
        CublasLtApi.MatrixLayoutCreate(out MatrixLayoutHandle layout, CudaDataType.E4M3, 64, 7, 96).Check();
        using (layout)
            Assert.Equal((28, 64, 7, 96), (Read(0, 4), Read(2, 8), Read(3, 8), Read(4, 8))); // TYPE, ROWS, COLS, LD

        long Read(int attribute, int bytes)
        {
            long value = 0;
            Assert.Equal(CublasStatus.Success, MatrixLayoutGetAttribute(layout.DangerousGetHandle(), attribute, &value, (nuint)bytes, out _));
            return value;
        }
    }

    [SkippableFact]
    public void Descriptors_OfEveryShape_AreAccepted()
    {
        Checkers.Need(NativeLibraries.BlasLt);
        int version = (int)CublasLtApi.GetVersion();
        using var library = new CublasLtHandle();
        foreach (MatmulShape shape in MatmulShapes.All().Where(s => MatmulRules.WhyNot(s, 90, version) is null))
            new CublasLtMatmul(library, shape).Dispose();
    }

    [SkippableFact]
    public void Create_WithoutADevice_SaysSo()
    {
        Checkers.Need(NativeLibraries.BlasLt);
        CudaInstallation cuda = CudaInstallation.Find();
        Skip.If(cuda.Gpus.Count > 0, "there is a GPU");

        var e = Assert.Throws<CudaException>(() => new CublasLt(90));

        Assert.Equal("cublasLtCreate failed: CUBLAS_STATUS_NOT_INITIALIZED (1).", e.Message);
    }
}
