namespace Qwen.DeviceCheck;

/// <summary>Small kernels written by hand: they check the device, not the engine's own emitter.</summary>
internal static class Ptx
{
    /// <summary>y[first + i] += a * x[i] for i below n: parameters of every size.</summary>
    public const string Axpy = """
        .version 7.0
        .target sm_80
        .address_size 64
        .visible .entry axpy(.param .u64 px, .param .u64 py, .param .f32 pa, .param .u32 pn, .param .u64 pfirst)
        {
            .reg .pred %p; .reg .b32 %r<6>; .reg .b64 %rd<6>; .reg .f32 %f<4>;
            mov.u32 %r1, %ctaid.x;
            mov.u32 %r2, %ntid.x;
            mov.u32 %r3, %tid.x;
            mad.lo.u32 %r4, %r1, %r2, %r3;
            ld.param.u32 %r5, [pn];
            setp.ge.u32 %p, %r4, %r5;
            @%p ret;
            ld.param.u64 %rd1, [px];
            ld.param.u64 %rd2, [py];
            ld.param.u64 %rd3, [pfirst];
            mad.wide.u32 %rd1, %r4, 4, %rd1;
            mad.wide.u32 %rd2, %r4, 4, %rd2;
            shl.b64 %rd3, %rd3, 2;
            add.u64 %rd2, %rd2, %rd3;
            ld.global.f32 %f1, [%rd1];
            ld.global.f32 %f2, [%rd2];
            ld.param.f32 %f3, [pa];
            fma.rn.f32 %f2, %f3, %f1, %f2;
            st.global.f32 [%rd2], %f2;
            ret;
        }
        """;

    /// <summary>y[i] = x[last - i] within a block, through dynamic shared memory, at its far end where that is large.</summary>
    public const string Reverse = """
        .version 7.0
        .target sm_80
        .address_size 64
        .extern .shared .align 16 .b8 tile[];
        .visible .entry reverse(.param .u64 px, .param .u64 py, .param .u32 poffset)
        {
            .reg .b32 %r<9>; .reg .b64 %rd<5>; .reg .f32 %f<3>;
            mov.u32 %r1, %ctaid.x;
            mov.u32 %r2, %ntid.x;
            mov.u32 %r3, %tid.x;
            mad.lo.u32 %r4, %r1, %r2, %r3;
            ld.param.u64 %rd1, [px];
            ld.param.u64 %rd2, [py];
            mad.wide.u32 %rd1, %r4, 4, %rd1;
            mad.wide.u32 %rd2, %r4, 4, %rd2;
            ld.param.u32 %r5, [poffset];
            mov.u32 %r6, tile;
            add.u32 %r5, %r5, %r6;
            ld.global.f32 %f1, [%rd1];
            mad.lo.u32 %r7, %r3, 4, %r5;
            st.shared.f32 [%r7], %f1;
            bar.sync 0;
            sub.u32 %r8, %r2, %r3;
            sub.u32 %r8, %r8, 1;
            mad.lo.u32 %r8, %r8, 4, %r5;
            ld.shared.f32 %f2, [%r8];
            st.global.f32 [%rd2], %f2;
            ret;
        }
        """;

    /// <summary>y[i] = 2 y[i] + 1 in a kernel that may start before the one before it has ended.</summary>
    public const string Dependent = """
        .version 7.8
        .target sm_90
        .address_size 64
        .visible .entry step(.param .u64 py)
        {
            .reg .b32 %r<5>; .reg .b64 %rd<3>; .reg .f32 %f<4>;
            griddepcontrol.launch_dependents;
            mov.u32 %r1, %ctaid.x;
            mov.u32 %r2, %ntid.x;
            mov.u32 %r3, %tid.x;
            mad.lo.u32 %r4, %r1, %r2, %r3;
            ld.param.u64 %rd1, [py];
            mad.wide.u32 %rd1, %r4, 4, %rd1;
            griddepcontrol.wait;
            ld.global.f32 %f1, [%rd1];
            mov.f32 %f2, 0f40000000;
            mov.f32 %f3, 0f3f800000;
            fma.rn.f32 %f1, %f1, %f2, %f3;
            st.global.f32 [%rd1], %f1;
            ret;
        }
        """;

    /// <summary>Writes to an address, whatever is there.</summary>
    public const string Poke = """
        .version 7.0
        .target sm_80
        .address_size 64
        .visible .entry poke(.param .u64 p)
        {
            .reg .b64 %rd1; .reg .b32 %r1;
            ld.param.u64 %rd1, [p];
            mov.u32 %r1, 1;
            st.global.u32 [%rd1], %r1;
            ret;
        }
        """;
}
