// y = x · Wᵀ with INT4 weights on Hopper, for tens and hundreds of rows; weights are packed as `int4.cu` says.
//
// Activations come as the image of shared memory that wgmma wants (`tile_place`; whoever makes them, or `to_tiles`, writes
// them so). One bulk copy brings 64 inputs of all rows, and the weights in registers are the other operand.
// One warpgroup brings activations; two unpack weights and multiply, each 64·MT outputs.

#include "common.cuh"
#include "unpack.cuh"
#if __CUDA_ARCH_FEAT_SM90_ALL
#include "wgmma.cuh"

__device__ __forceinline__ void barrier_init(u32 at, int count) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_arrive(u32 at) {
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(at) : "memory");
}
__device__ __forceinline__ void barrier_expect(u32 at, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_wait(u32 at, u32 parity) {
    asm volatile(
        "{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n@!done bra AGAIN;\n}" ::"r"(at),
        "r"(parity) : "memory");
}
__device__ __forceinline__ void bulk_copy(u32 to, const void* from, u32 bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier) : "memory");
}
__device__ __forceinline__ void products_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

template <int N, int MT, int STAGES, int BLOCKS, bool SILU, bool ZEROS>
__device__ __forceinline__ void int4_wide(
    const uint4* __restrict__ weights, const u32* __restrict__ scales, const u32* __restrict__ zeros,
    const u16* __restrict__ x, void* __restrict__ out, int rows, int outs, int blocks, int groups, int splits,
    int padded_rows, int padded_out) {
    constexpr int STAGE_BYTES = N * 128, RING = 4;
    constexpr bool HALVES = BLOCKS < 0;
    extern __shared__ char memory[];
    __shared__ __align__(8) u64 barriers[2 * STAGES];
    const u32 tiles = (shared_address(memory) + 1023) / 1024 * 1024;
    const u32 full = shared_address(barriers), empty = full + 8 * STAGES;
    const int base = blockIdx.x * N, split = blockIdx.z;
    const int first = (int)((i64)blocks * split / splits), last = (int)((i64)blocks * (split + 1) / splits);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) barrier_init(full + 8 * i, 1), barrier_init(empty + 8 * i, 8);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    launch_next();

    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 0) {
            wait_for_last();
            for (int block = first; block < last; block++) {
                const int n = block - first, stage = n % STAGES;
                if (n >= STAGES) barrier_wait(empty + 8 * stage, (n / STAGES - 1) & 1);
                barrier_expect(full + 8 * stage, STAGE_BYTES);
                bulk_copy(tiles + stage * STAGE_BYTES, x + ((i64)block * padded_rows + base) * 64, STAGE_BYTES, full + 8 * stage);
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP - 4, g = lane / 4, t = lane % 4;
        const int m0 = (blockIdx.y * 8 + warp) * MT;  // this warp's strips of 16 outputs
        const i64 row_words = (i64)blocks * WARP;
        const uint4* w = weights + m0 * row_words + lane;
        const u32* s = scales + (i64)m0 * groups * 8 + g;
        const u32* z = ZEROS ? zeros + (i64)m0 * groups * 8 + g : nullptr;
        uint4 ring[RING][MT];
        u32 scale[RING][MT];
        auto fetch = [&](int d, int block) {
#pragma unroll
            for (int m = 0; m < MT; m++) {
                ring[d][m] = stream(w + m * row_words + (i64)block * WARP);
                if (!HALVES) scale[d][m] = s[(i64)(m * groups + (BLOCKS ? block / (BLOCKS > 0 ? BLOCKS : 1) : 0)) * 8];
            }
        };
#pragma unroll
        for (int d = 0; d < RING; d++)
            if (first + d < last) fetch(d, first + d);
        float sum[MT][N / 2];
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int i = 0; i < N / 2; i++) sum[m][i] = 0.f;
        u32 a[2][MT][2][4];
        auto doubled = [](float f) { return pair(f, f); };
        for (int step = first; step < last; step += RING) {
#pragma unroll
            for (int d = 0; d < RING; d++) {
                if (step + d >= last) break;
                const int n = step + d - first, stage = n % STAGES, block = step + d;
                // rows of 128 bytes, 8 of them 1024 apart, swizzled over 128 bytes; in units of 16 bytes
                const u64 tile = ((u64)1 << 62) | ((u64)64 << 32) | ((u64)1 << 16) | ((tiles + stage * STAGE_BYTES) >> 4 & 0x3fff);
                u32 sa[MT], sb[MT];
                Zero zero[MT];
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    products_wait<1>();  // those that read a[h], and with h = 1 all of the stage before
                    if (h == 1 && n > 0 && lane == 0) barrier_arrive(empty + 8 * ((n - 1) % STAGES));
#pragma unroll
                    for (int m = 0; m < MT; m++) {
                        if (h == 0 || HALVES) {
                            const i64 place = (i64)(m * groups + (HALVES ? block * 2 + h : BLOCKS ? block / (BLOCKS > 0 ? BLOCKS : 1) : 0)) * 8;
                            const u32 sc = HALVES ? s[place] : scale[d][m];
                            sa[m] = doubled(half_low(sc)), sb[m] = doubled(half_high(sc));
                            zero[m] = zero_of(z, place);
                        }
#pragma unroll
                        for (int q = 0; q < 2; q++) {
                            unpack(word(ring[d][m], h * 2 + q), zero[m].a, zero[m].b, a[h][m][q]);
#pragma unroll
                            for (int i = 0; i < 4; i++) a[h][m][q][i] = fma2(a[h][m][q][i], i & 1 ? sb[m] : sa[m], MINUS_ZERO2);
                        }
                    }
                    if (h == 0) barrier_wait(full + 8 * stage, (n / STAGES) & 1);
                    products_fence();
#pragma unroll
                    for (int q = 0; q < 2; q++)
#pragma unroll
                        for (int m = 0; m < MT; m++) Wide<N>::mma(sum[m], a[h][m][q], tile + 2 * (2 * h + q));
                    products_commit();
                }
                if (step + d + RING < last) fetch(d, step + d + RING);
            }
        }
        products_wait<0>();
#pragma unroll
        for (int i = 0; i < N / 8; i++)
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const int row = base + i * 8 + 2 * t + k % 2;
                if (row >= rows) continue;
                if (SILU) {
#pragma unroll
                    for (int m = 0; m < MT; m += 2) {
                        const float gate = rounded(sum[m][i * 4 + k]), up = rounded(sum[m + 1][i * 4 + k]);
                        const int o = (m0 + m) * 8 + g + 8 * (k / 2);
                        ((u16*)out)[padded_out ? tile_place(row, o, padded_out) : (i64)row * (outs / 2) + o] =
                            narrow(rounded(gate / (1.f + __expf(-gate))) * up);
                    }
                } else {
#pragma unroll
                    for (int m = 0; m < MT; m++)
                        ((float*)out)[((i64)split * rows + row) * outs + (m0 + m) * 16 + g + 8 * (k / 2)] = sum[m][i * 4 + k];
                }
            }
    }
}
#define WIDE_KERNEL(NAME, N, MT, STAGES, BLOCKS, SILU, ZEROS)                                                                 \
    extern "C" __global__ __launch_bounds__(384, 1) void NAME(                                                         \
        const uint4* weights, const u32* scales, const u32* zeros, const u16* x, void* out, int rows, int outs,        \
        int blocks, int groups, int splits, int padded_rows, int padded_out) {                                                       \
        int4_wide<N, MT, STAGES, BLOCKS, SILU, ZEROS>(                                                                        \
            weights, scales, zeros, x, out, rows, outs, blocks, groups, splits, padded_rows, padded_out);                          \
    }
#endif

// 16-bit [rows][64·blocks] → the image above, [blocks][padded_rows][64]. Grid (blocks / 8, rows); a thread takes 8 columns.
extern "C" __global__ void to_tiles(const u16* x, u16* out, int blocks, int padded_rows) {
    launch_next();
    wait_for_last();
    const int row = blockIdx.y, column = blockIdx.x * 512 + threadIdx.x * 8;
    if (column >= blocks * 64) return;
    const uint4 v = fresh(x + (i64)row * blocks * 64 + column);
    const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) *(u32*)(out + tile_place(row, column + 2 * i, padded_rows)) = words[i];
}
