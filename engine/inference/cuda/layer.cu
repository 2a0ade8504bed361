// The small kernels between the products: embedding, norms, positions and the cache, SwiGLU.
//
// What a product leaves is read in one of two forms: partial sums, fp32 [splits][rows][width], or (splits 0) 16-bit
// [rows][width]. Sums are rounded to 16 bits first, as a library's product would have done.

#include "common.cuh"

__device__ __forceinline__ float made(const void* product, int splits, i64 rows, i64 row, i64 width, i64 place) {
    if (splits == 0) return wide(((const u16*)product)[row * width + place]);
    float sum = 0.f;
    for (int s = 0; s < splits; s++) sum += fresh_float((const float*)product + (s * rows + row) * width + place);
    return rounded(sum);
}

// 8-bit floats (e4m3) by way of fp16: the bits of half(v / 256), its mantissa cut from 10 to 3, are those of e4m3(v).
__device__ __forceinline__ unsigned char to_fp8(float v) {
    v = fminf(fmaxf(v, -448.f), 448.f) * 0.00390625f;
    u16 h;
    asm("{.reg .f16 a; cvt.rn.f16.f32 a, %1; mov.b16 %0, a;}" : "=h"(h) : "f"(v));
    const u32 bits = h & 0x7fffu;
    return (unsigned char)(((bits + 0x3fu + ((bits >> 7) & 1u)) >> 7) | ((h & 0x8000u) >> 8));
}

// What each row of this step is: plan[5][rows] = slot, tokens in its cache, position, place in its block table that gets a
// new page or −1, that page. One block a row. x: [rows][hidden].
extern "C" __global__ void begin_decode(
    const int* plan, int rows, const i64* tokens, int* tables, int max_pages, int page_tokens, const u16* embedding,
    int hidden, u16* x, int* slots, int* lengths, int* positions, i64* places) {
    launch_next();
    wait_for_last();
    const int row = blockIdx.x, slot = plan[row], length = plan[rows + row];
    if (threadIdx.x == 0) {
        const int index = plan[3 * rows + row];
        if (index >= 0) tables[(i64)slot * max_pages + index] = plan[4 * rows + row];
        slots[row] = slot, lengths[row] = length + 1, positions[row] = plan[2 * rows + row];
        places[row] = (i64)tables[(i64)slot * max_pages + length / page_tokens] * page_tokens + length % page_tokens;
    }
    const uint4* from = (const uint4*)(embedding + tokens[slot] * hidden);
    uint4* to = (uint4*)(x + (i64)row * hidden);
    for (int i = threadIdx.x; i < hidden / 8; i += blockDim.x) to[i] = from[i];
}

// x += product (where there is one), then normed = weight · x / rms(x), with padded_rows as `tile_place` says. One block a
// row; shared: hidden floats.
extern "C" __global__ void add_norm(
    u16* x, const void* product, int splits, const u16* weight, u16* normed, int rows, int hidden, float eps,
    int padded_rows) {
    extern __shared__ float values[];
    __shared__ float sums[32];
    launch_next();
    wait_for_last();
    const i64 row = blockIdx.x;
    float square = 0.f;
    for (int i = threadIdx.x * 4; i < hidden; i += blockDim.x * 4) {
        uint2 old = *(const uint2*)(x + row * hidden + i);
        float v[4] = {low(old.x), high(old.x), low(old.y), high(old.y)};
        if (product) {
            float d[4] = {0.f, 0.f, 0.f, 0.f};
            if (splits == 0) {
                const uint2 p = *(const uint2*)((const u16*)product + row * hidden + i);
                d[0] = low(p.x), d[1] = high(p.x), d[2] = low(p.y), d[3] = high(p.y);
            } else {
                for (int s = 0; s < splits; s++) {
                    const uint4 p = fresh((const float*)product + ((i64)s * rows + row) * hidden + i);
                    d[0] += __uint_as_float(p.x), d[1] += __uint_as_float(p.y);
                    d[2] += __uint_as_float(p.z), d[3] += __uint_as_float(p.w);
                }
            }
#pragma unroll
            for (int k = 0; k < 4; k++) v[k] = rounded(v[k] + rounded(d[k]));
            *(uint2*)(x + row * hidden + i) = make_uint2(pair(v[0], v[1]), pair(v[2], v[3]));
        }
#pragma unroll
        for (int k = 0; k < 4; k++) square += v[k] * v[k];
        *(float4*)(values + i) = make_float4(v[0], v[1], v[2], v[3]);
    }
    square = warp_sum(square);
    if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = square;
    __syncthreads();
    float total = 0.f;
    for (int w = 0; w < blockDim.x / WARP; w++) total += sums[w];
    const float scale = rsqrtf(total / hidden + eps);
    for (int i = threadIdx.x * 4; i < hidden; i += blockDim.x * 4) {
        const float4 v = *(const float4*)(values + i);
        const uint2 w = *(const uint2*)(weight + i);
        const u32 first = pair(rounded(v.x * scale) * low(w.x), rounded(v.y * scale) * high(w.x));
        const u32 second = pair(rounded(v.z * scale) * low(w.y), rounded(v.w * scale) * high(w.y));
        if (padded_rows) {
            *(u32*)(normed + tile_place((int)row, i, padded_rows)) = first;
            *(u32*)(normed + tile_place((int)row, i + 2, padded_rows)) = second;
        } else {
            *(uint2*)(normed + row * hidden + i) = make_uint2(first, second);
        }
    }
}

// Query, key and value of each row: RoPE (halves, in fp32), then RMSNorm of each query and key head; keys and values go
// to their place in the cache of this layer, [pages][2][kv_heads][page_tokens][D]. One warp a head. cos, sin: [positions][D] fp32, the first half of sin negative.
#define POSITION_KERNEL(NAME, D, FP8)                                                                                  \
    extern "C" __global__ void NAME(                                                                                   \
        const void* product, int splits, int rows, int heads, int kv_heads, const int* positions, const i64* places,   \
        const float* cos, const float* sin, const u16* query_weight, const u16* key_weight, float eps, u16* queries,   \
        void* cache, int page_tokens) {                                                        \
        place<D, FP8>(product, splits, rows, heads, kv_heads, positions, places, cos, sin, query_weight, key_weight,   \
                      eps, queries, cache, page_tokens);                                                 \
    }

template <int D, bool FP8>
__device__ __forceinline__ void place(
    const void* product, int splits, int rows, int heads, int kv_heads, const int* positions, const i64* places,
    const float* cos, const float* sin, const u16* query_weight, const u16* key_weight, float eps, u16* queries,
    void* cache, int page_tokens) {
    constexpr int EACH = D / 2 / WARP;  // pairs a lane
    launch_next();
    wait_for_last();
    const int row = blockIdx.x, lane = threadIdx.x % WARP;
    const int head = blockIdx.y * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (head >= heads + 2 * kv_heads) return;
    const i64 width = (i64)(heads + 2 * kv_heads) * D;
    float a[EACH], b[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const int i = lane * EACH + k;
        a[k] = made(product, splits, rows, row, width, (i64)head * D + i);
        b[k] = made(product, splits, rows, row, width, (i64)head * D + i + D / 2);
    }
    if (head < heads + kv_heads) {
        const u16* weight = head < heads ? query_weight : key_weight;
        const i64 at = (i64)positions[row] * D;
        float square = 0.f;
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            const int i = lane * EACH + k;
            const float x = a[k], y = b[k];
            a[k] = rounded(x * cos[at + i] + y * sin[at + i]);
            b[k] = rounded(y * cos[at + i + D / 2] + x * sin[at + i + D / 2]);
            square += a[k] * a[k] + b[k] * b[k];
        }
        const float scale = rsqrtf(warp_sum(square) / D + eps);
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            const int i = lane * EACH + k;
            a[k] = rounded(rounded(a[k] * scale) * wide(weight[i]));
            b[k] = rounded(rounded(b[k] * scale) * wide(weight[i + D / 2]));
        }
    }
    if (head < heads) {
        u16* to = queries + ((i64)row * heads + head) * D;
#pragma unroll
        for (int k = 0; k < EACH; k++) to[lane * EACH + k] = narrow(a[k]), to[lane * EACH + k + D / 2] = narrow(b[k]);
        return;
    }
    const i64 page = places[row] / page_tokens, token = places[row] % page_tokens;
    const int kv = (head - heads) / kv_heads, kv_head = (head - heads) % kv_heads;
    const i64 base = (((page * 2 + kv) * kv_heads + kv_head) * page_tokens + token) * D;
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const i64 i = base + lane * EACH + k;
        if (FP8) ((unsigned char*)cache)[i] = to_fp8(a[k]), ((unsigned char*)cache)[i + D / 2] = to_fp8(b[k]);
        else ((u16*)cache)[i] = narrow(a[k]), ((u16*)cache)[i + D / 2] = narrow(b[k]);
    }
}

// silu(gate) · up of a 16-bit product whose columns hold `run` of gate, then as many of up: [rows][2·width] → [rows][width].
extern "C" __global__ void gated(const u16* product, u16* out, int width, int run) {
    const i64 row = blockIdx.y;
    const int i = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i >= width) return;
    const u16* p = product + row * 2 * width + i / run * 2 * run + i % run;
    const uint4 g = *(const uint4*)p, u = *(const uint4*)(p + run);
    const u32 gates[4] = {g.x, g.y, g.z, g.w}, ups[4] = {u.x, u.y, u.z, u.w};
    u32 y[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const float a = low(gates[k]), b = high(gates[k]);
        y[k] = pair(rounded(a / (1.f + __expf(-a))) * low(ups[k]), rounded(b / (1.f + __expf(-b))) * high(ups[k]));
    }
    *(uint4*)(out + row * width + i) = make_uint4(y[0], y[1], y[2], y[3]);
}
