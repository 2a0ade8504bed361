// What all our kernels use: 16-bit floats by raw bits (no CUDA header is needed), mma, cp.async, programmatic launch.
// The element type is chosen when compiling: -DFP16=1 for fp16, else bf16.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;
typedef long long i64;

#define WARP 32
#define NOTHING __int_as_float(0xff800000)  // minus infinity

__device__ __forceinline__ float low(u32 pair) {
#if FP16
    float f;
    asm("{.reg .f16 a, b; mov.b32 {a, b}, %1; cvt.f32.f16 %0, a;}" : "=f"(f) : "r"(pair));
    return f;
#else
    return __uint_as_float(pair << 16);
#endif
}

__device__ __forceinline__ float high(u32 pair) {
#if FP16
    float f;
    asm("{.reg .f16 a, b; mov.b32 {a, b}, %1; cvt.f32.f16 %0, b;}" : "=f"(f) : "r"(pair));
    return f;
#else
    return __uint_as_float(pair & 0xffff0000u);
#endif
}

__device__ __forceinline__ float wide(u16 value) {
    return low(value);
}

__device__ __forceinline__ u32 pair(float lo, float hi) {
    u32 r;
#if FP16
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
#else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
#endif
    return r;
}

__device__ __forceinline__ u16 narrow(float f) {
    return (u16)(pair(f, 0.f) & 0xffffu);
}

__device__ __forceinline__ float rounded(float f) {
    return wide(narrow(f));
}

__device__ __forceinline__ u32 fma2(u32 a, u32 b, u32 c) {
    u32 r;
#if FP16
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
#else
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
#endif
    return r;
}

#if FP16
#define ONE2 0x3c003c00u     // 1.0 twice
#define MINUS_ZERO2 0x80008000u
#define MAGIC2 0x64006400u   // 1024.0 twice: a nibble or-ed into the mantissa adds its value
#define MINUS_BASE 1024.f
#else
#define ONE2 0x3f803f80u
#define MINUS_ZERO2 0x80008000u
#define MAGIC2 0x43004300u   // 128.0 twice
#define MINUS_BASE 128.f
#endif

__device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if FP16
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#endif
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Weights are read once a step: past the L1, and first out of the L2.
__device__ __forceinline__ uint4 stream(const uint4* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

// What an earlier kernel of the same graph wrote: through the L2, since the L1 may hold what stood there before.
__device__ __forceinline__ uint4 fresh(const void* p) {
    uint4 v;
    asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
    return v;
}

__device__ __forceinline__ float fresh_float(const float* p) {
    float v;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(v) : "l"(p) : "memory");
    return v;
}

__device__ __forceinline__ u32 shared_address(const void* p) {
    u32 a;
    asm("{.reg .u64 t; cvta.to.shared.u64 t, %1; cvt.u32.u64 %0, t;}" : "=r"(a) : "l"(p));
    return a;
}

__device__ __forceinline__ void copy_async(u32 to, const void* from, bool there) {
    int bytes = there ? 16 : 0;  // the rest of the 16 is filled with zeros
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Programmatic launch: the next kernel may be brought onto the card now; and wait for all that the one before wrote.
__device__ __forceinline__ void launch_next() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_last() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}

// Four 8×8 matrices of 16-bit numbers from shared memory, as mma wants them; `turned`: each transposed.
__device__ __forceinline__ void load_matrices(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
__device__ __forceinline__ void load_matrices_turned(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

// Where `int4_wide` wants activation [row][column]: 16-bit [in/64][rows][64], within the 64 column
// k(t, j, s) = (j/2)·32 + t·8 + (j%2)·4 + s at j·16 + 2t + s%2 + 8·(s/2), and 16-byte piece c of a row at c ^ (row % 8).
__device__ __forceinline__ i64 tile_place(int row, int column, int padded_rows) {
    const int k = column % 64, j = k / 32 * 2 + k % 8 / 4, at = j * 16 + k % 32 / 8 * 2 + k % 2 + k % 4 / 2 * 8;
    return ((i64)(column / 64) * padded_rows + row) * 64 + (at / 8 ^ row % 8) * 8 + at % 8;
}
