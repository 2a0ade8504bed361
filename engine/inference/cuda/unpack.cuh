// A word of packed INT4 weights → an operand of mma; see `int4.cu` for the layout.

__device__ __forceinline__ float half_low(u32 p) {
    float f;
    asm("{.reg .f16 a, b; mov.b32 {a, b}, %1; cvt.f32.f16 %0, a;}" : "=f"(f) : "r"(p));
    return f;
}
__device__ __forceinline__ float half_high(u32 p) {
    float f;
    asm("{.reg .f16 a, b; mov.b32 {a, b}, %1; cvt.f32.f16 %0, b;}" : "=f"(f) : "r"(p));
    return f;
}

// One word → an A fragment of whole numbers q − z; z0 for rows g, z1 for rows g+8 (each −(base + z) twice).
__device__ __forceinline__ void unpack(u32 word, u32 z0, u32 z1, u32 (&a)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u32 bits;
        asm("lop3.b32 %0, %1, 0x000f000f, %2, 0xea;" : "=r"(bits) : "r"(word >> (4 * i)), "r"(MAGIC2));  // (a & b) | c
        a[i] = fma2(bits, ONE2, (i & 1) ? z1 : z0);
    }
}

__device__ __forceinline__ u32 word(const uint4& v, int j) { return j == 0 ? v.x : j == 1 ? v.y : j == 2 ? v.z : v.w; }

struct Zero { u32 a, b; };
__device__ __forceinline__ Zero zero_of(const u32* zeros, i64 place) {
    float a = 8.f, b = 8.f;
    if (zeros) {
        u32 z = zeros[place];
        a = half_low(z), b = half_high(z);
    }
    a = -(MINUS_BASE + a), b = -(MINUS_BASE + b);
    return {pair(a, a), pair(b, b)};
}
