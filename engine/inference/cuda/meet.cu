// Where the ranks of a model meet after a product that each has a part of: `add_norm` of layer.cu, and the sum over ranks
// in it.
//
// Each rank writes its part into the others' memory and reads theirs out of its own, so that nobody asks and waits for an
// answer. What travels are lines of 16 bytes, two fp32 numbers with the number of the meeting beside each: 8 bytes come
// whole, so who finds the number finds what belongs to it, and no fence or flag is needed. Lines of one meeting are
// written over by the one after the next, which nobody comes to before all have read them: the next needs everybody's
// part, and they send it after this.

#include "common.cuh"

__device__ __forceinline__ void send(uint4* p, float a, float b, u32 number) {
    asm volatile("st.volatile.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(p), "r"(__float_as_uint(a)), "r"(number),
                 "r"(__float_as_uint(b)), "r"(number) : "memory");
}

// Waits for a line.
__device__ __forceinline__ float2 received(const uint4* p, u32 number) {
    uint4 v;
    do {
        asm volatile("ld.volatile.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
    } while (v.y != number || v.w != number);
    return make_float2(__uint_as_float(v.x), __uint_as_float(v.z));
}

// x += the sum of all ranks' products, then normed, as `add_norm` has it. inboxes[ranks]: each rank's memory as this one
// reaches it, [2][ranks that wrote][most_rows][hidden/2] lines. meeting: its number, from 1 on, and blocks that have ended.
// One block a row; shared: hidden floats.
extern "C" __global__ void add_norm_met(
    u16* x, const void* product, int splits, const u16* weight, u16* normed, int rows, int hidden, float eps,
    int padded_rows, const u64* inboxes, int rank, int ranks, int most_rows, u32* meeting) {
    extern __shared__ float values[];
    __shared__ float sums[32];
    launch_next();
    wait_for_last();
    const i64 row = blockIdx.x;
    const u32 number = *(const volatile u32*)meeting;
    const i64 lines = (i64)hidden / 2, half = (i64)(number % 2) * ranks;
    for (int i = threadIdx.x * 4; i < hidden; i += blockDim.x * 4) {
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
        for (int other = 0; other < ranks; other++) {
            if (other == rank) continue;
            uint4* to = (uint4*)inboxes[other] + ((half + rank) * most_rows + row) * lines + i / 2;
            send(to, d[0], d[1], number);
            send(to + 1, d[2], d[3], number);
        }
        *(float4*)(values + i) = make_float4(d[0], d[1], d[2], d[3]);
    }
    float square = 0.f;
    for (int i = threadIdx.x * 4; i < hidden; i += blockDim.x * 4) {  // what this thread sent and kept itself
        const float4 own = *(const float4*)(values + i);
        float d[4] = {0.f, 0.f, 0.f, 0.f};
        for (int from = 0; from < ranks; from++) {  // in the same order for all, so that all have the same sum
            float2 a = make_float2(own.x, own.y), b = make_float2(own.z, own.w);
            if (from != rank) {
                const uint4* line = (const uint4*)inboxes[rank] + ((half + from) * most_rows + row) * lines + i / 2;
                a = received(line, number), b = received(line + 1, number);
            }
            d[0] += a.x, d[1] += a.y, d[2] += b.x, d[3] += b.y;
        }
        const uint2 old = *(const uint2*)(x + row * hidden + i);
        float v[4] = {low(old.x), high(old.x), low(old.y), high(old.y)};
#pragma unroll
        for (int k = 0; k < 4; k++) v[k] = rounded(v[k] + rounded(d[k]));
        *(uint2*)(x + row * hidden + i) = make_uint2(pair(v[0], v[1]), pair(v[2], v[3]));
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
    if (threadIdx.x == 0 && atomicAdd(meeting + 1, 1u) == gridDim.x - 1) {  // all blocks have read the number
        meeting[1] = 0;
        meeting[0] = number + 1 ? number + 1 : 2;  // 0 is what nobody has written; and the other half is next
    }
}
