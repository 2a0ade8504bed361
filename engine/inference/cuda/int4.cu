// y = x · Wᵀ with INT4 weights, two ways: `int4_stream` for few rows, `int4_tile` for many. `int4_widen` gives W itself.
//
// Packed weights: uint4 [out/16][in/64][32 lanes]. The 16 bytes of lane (g = lane/4, t = lane%4) are four words, word j
// the A fragment of one m16n8k16 step: nibble i and i+4 are the low and high half of register i, that is
//   register 0: row g, s = 0, 1     1: row g+8, s = 0, 1     2: row g, s = 2, 3     3: row g+8, s = 2, 3
// of column k(t, j, s) = (j/2)·32 + t·8 + (j%2)·4 + s within the 64. So a lane's activations are 2 × 16 contiguous bytes.
// scales: u32 [out/16][groups][8], the fp16 of row g (low) and of row g+8 (high); zeros alike, as zero points.
// Partial sums over the splits of the inputs are fp32 [splits][rows][out]: whoever reads them next adds them up, in order.

#include "common.cuh"
#include "unpack.cuh"

// ---- few rows -------------------------------------------------------------------------------------------------------
// A block takes strips of MT·16 outputs; its WARPS share the inputs and add up at the end. BLOCKS: 64-wide blocks a group
// (0: one group for all, HALVES: two groups a block). SILU: strips hold 16 rows of gate, then 16 of up, and what is
// written is silu(gate)·up in 16 bits. ZEROS: zero points are not all 8.

template <int MT, int NT, int WARPS, int DEPTH, int BLOCKS, bool SILU, bool ZEROS>
__device__ __forceinline__ void int4_stream(
    const uint4* __restrict__ weights, const u32* __restrict__ scales, const u32* __restrict__ zeros,
    const u16* __restrict__ x, void* __restrict__ out, int rows, int outs, int blocks, int groups, int splits) {
    constexpr bool HALVES = BLOCKS < 0;
    constexpr int UNIT = BLOCKS > 1 ? BLOCKS : 1;  // blocks that one warp takes together
    static_assert(DEPTH % UNIT == 0, "a ring holds whole groups");
    extern __shared__ float sums[];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
    const int split = blockIdx.y, strips = outs / (16 * MT);
    // this warp's blocks: whole units, as even as they go
    const int parts = WARPS * splits, part = split * WARPS + warp, units = blocks / UNIT;
    const int first = (int)((i64)units * part / parts) * UNIT, last = (int)((i64)units * (part + 1) / parts) * UNIT;
    const i64 row_words = (i64)blocks * WARP;
    launch_next();
    bool waited = false;

    for (int strip = blockIdx.x; strip < strips; strip += gridDim.x) {
        const uint4* w = weights + (i64)strip * MT * row_words + lane;
        const u32* s = scales + (i64)strip * MT * groups * 8 + g;
        const u32* z = ZEROS ? zeros + (i64)strip * MT * groups * 8 + g : nullptr;
        uint4 ring[DEPTH][MT];
        u32 scale[DEPTH][MT];
        auto fetch = [&](int d, int block) {
#pragma unroll
            for (int m = 0; m < MT; m++) ring[d][m] = stream(w + m * row_words + (i64)block * WARP);
            if (BLOCKS > 0 && d % UNIT == UNIT - 1)
#pragma unroll
                for (int m = 0; m < MT; m++) scale[d][m] = s[(i64)(m * groups + block / UNIT) * 8];
        };
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            if (first + d < last) fetch(d, first + d);
        if (!waited) wait_for_last(), waited = true;

        float sum[MT][NT][4], part_sum[MT][NT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) sum[m][n][i] = part_sum[m][n][i] = 0.f;
        auto flush = [&](int m, u32 sc) {
            float a = half_low(sc), b = half_high(sc);
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) sum[m][n][i] += part_sum[m][n][i] * (i < 2 ? a : b), part_sum[m][n][i] = 0.f;
        };
        const u16* xs = x + t * 8;
        uint4 acts[2][NT][2];
        auto look = [&](int which, int block) {
#pragma unroll
            for (int n = 0; n < NT; n++) {
                const int row = n * 8 + g;
                const u16* p = xs + (i64)row * blocks * 64 + block * 64;
#pragma unroll
                for (int h = 0; h < 2; h++)
                    acts[which][n][h] = row < rows ? fresh(p + 32 * h) : make_uint4(0, 0, 0, 0);
            }
        };
        if (first < last) look(0, first);
        for (int block = first; block < last; block += DEPTH) {
#pragma unroll
            for (int d = 0; d < DEPTH; d++) {
                if (block + d >= last) break;
                const int now = d % 2;
                if (block + d + 1 < last) look(1 - now, block + d + 1);
                Zero zero[MT];
#pragma unroll
                for (int m = 0; m < MT; m++)
                    zero[m] = zero_of(HALVES ? nullptr : z, (i64)(m * groups + (BLOCKS > 0 ? (block + d) / UNIT : 0)) * 8);
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    if (HALVES && j % 2 == 0)
#pragma unroll
                        for (int m = 0; m < MT; m++) zero[m] = zero_of(z, (i64)(m * groups + (block + d) * 2 + j / 2) * 8);
#pragma unroll
                    for (int m = 0; m < MT; m++) {
                        u32 a[4];
                        unpack(word(ring[d][m], j), zero[m].a, zero[m].b, a);
#pragma unroll
                        for (int n = 0; n < NT; n++) {
                            const uint4& v = acts[now][n][j / 2];
                            mma(part_sum[m][n], a, j % 2 ? v.z : v.x, j % 2 ? v.w : v.y);
                        }
                    }
                    if (HALVES && j % 2 == 1)
#pragma unroll
                        for (int m = 0; m < MT; m++) flush(m, s[(i64)(m * groups + (block + d) * 2 + j / 2) * 8]);
                }
                if (BLOCKS > 0 && (d + 1) % UNIT == 0)
#pragma unroll
                    for (int m = 0; m < MT; m++) flush(m, scale[d][m]);
                if (block + d + DEPTH < last) fetch(d, block + d + DEPTH);
            }
        }
        if (BLOCKS == 0)
#pragma unroll
            for (int m = 0; m < MT; m++) flush(m, s[(i64)m * groups * 8]);

        // the warps add up: sums[warp][row of x][output of the strip]
        constexpr int WIDE = MT * 16 + 4;  // 4 more, so that lanes meet different banks
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    sums[(warp * NT * 8 + n * 8 + 2 * t + i % 2) * WIDE + m * 16 + g + 8 * (i / 2)] = sum[m][n][i];
        __syncthreads();
        constexpr int OUTS = SILU ? MT * 8 : MT * 16;
        for (int i = threadIdx.x; i < OUTS * NT * 8; i += WARPS * WARP) {
            const int row = i / OUTS, o = i % OUTS;
            if (row >= rows) break;
            if (SILU) {
                const int place = row * WIDE + o / 16 * 32 + o % 16;
                float gate = 0.f, up = 0.f;
#pragma unroll
                for (int k = 0; k < WARPS; k++) gate += sums[k * NT * 8 * WIDE + place], up += sums[k * NT * 8 * WIDE + place + 16];
                gate = rounded(gate), up = rounded(up);
                ((u16*)out)[(i64)row * (outs / 2) + strip * OUTS + o] = narrow(rounded(gate / (1.f + __expf(-gate))) * up);
            } else {
                float y = 0.f;
#pragma unroll
                for (int k = 0; k < WARPS; k++) y += sums[k * NT * 8 * WIDE + row * WIDE + o];
                ((float*)out)[((i64)split * rows + row) * outs + strip * OUTS + o] = y;
            }
        }
        __syncthreads();
    }
}
#define STREAM_KERNEL(NAME, MT, NT, WARPS, DEPTH, AT_ONCE, BLOCKS, SILU, ZEROS)                                        \
    extern "C" __global__ __launch_bounds__(WARPS * WARP, AT_ONCE) void NAME(                                                   \
        const uint4* weights, const u32* scales, const u32* zeros, const u16* x, void* out, int rows, int outs,        \
        int blocks, int groups, int splits) {                                                                          \
        int4_stream<MT, NT, WARPS, DEPTH, BLOCKS, SILU, ZEROS>(weights, scales, zeros, x, out, rows, outs, blocks, groups, splits); \
    }

// ---- many rows ------------------------------------------------------------------------------------------------------
// A block takes WM·MT·16 outputs and WN·NT·8 rows; activations pass through shared memory in STAGES of 64·WK inputs,
// weights go from the card's memory to registers. WK warps share the inputs and add up at the end.

template <int MT, int NT, int WM, int WN, int WK, int STAGES, int RING, int BLOCKS, bool SILU, bool ZEROS>
__device__ __forceinline__ void int4_tile(
    const uint4* __restrict__ weights, const u32* __restrict__ scales, const u32* __restrict__ zeros,
    const u16* __restrict__ x, void* __restrict__ out, int rows, int outs, int blocks, int groups, int splits) {
    constexpr int THREADS = WM * WN * WK * WARP, ROWS = WN * NT * 8, TILE_OUTS = WM * MT * 16;
    constexpr bool HALVES = BLOCKS < 0;
    constexpr int STAGE = ROWS * 64 * WK;  // elements
    extern __shared__ uint4 memory[];
    u16* tiles = (u16*)memory;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
    const int wm = warp % WM, wn = warp / WM % WN, wk = warp / (WM * WN);
    const int strip = blockIdx.y, base = blockIdx.x * ROWS, split = blockIdx.z;  // a strip's blocks side by side: it is read once
    const int steps_all = blocks / WK;
    const int first = (int)((i64)steps_all * split / splits), last = (int)((i64)steps_all * (split + 1) / splits);
    const i64 row_words = (i64)blocks * WARP;
    const int m0 = strip * WM * MT + wm * MT;
    const uint4* w = weights + (i64)m0 * row_words + lane;
    const u32* s = scales + (i64)m0 * groups * 8 + g;
    const u32* z = ZEROS ? zeros + (i64)m0 * groups * 8 + g : nullptr;
    launch_next();

    uint4 ring[RING][MT];
    u32 scale[RING][MT];
    auto fetch = [&](int d, int step) {
        const int block = step * WK + wk;
#pragma unroll
        for (int m = 0; m < MT; m++) {
            ring[d][m] = stream(w + m * row_words + (i64)block * WARP);
            if (!HALVES) scale[d][m] = s[(i64)(m * groups + (BLOCKS ? block / (BLOCKS > 0 ? BLOCKS : 1) : 0)) * 8];
        }
    };
#pragma unroll
    for (int d = 0; d < RING; d++)
        if (first + d < last) fetch(d, first + d);
    wait_for_last();

    // 16-byte pieces of a stage: [block of 64][row][8 pieces]; piece c of a row lies at c ^ 4·(row & 1)
    const u32 tiles_address = shared_address(tiles);
    auto bring = [&](int stage, int step) {
        constexpr int PIECES = ROWS * 8 * WK;
#pragma unroll
        for (int i = threadIdx.x; i < PIECES; i += THREADS) {
            const int c = i % 8, row = i / 8 % ROWS, k = i / (8 * ROWS);
            const u32 to = tiles_address + (u32)(stage * STAGE * 2 + (k * ROWS + row) * 128 + ((c ^ (4 * (row & 1))) * 16));
            const bool there = base + row < rows;
            copy_async(to, x + (i64)(there ? base + row : 0) * blocks * 64 + (i64)(step * WK + k) * 64 + c * 8, there);
        }
        copy_commit();
    };
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) {
        if (first + i < last) bring(i, first + i);
        else copy_commit();
    }

    float sum[MT][NT][4];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) sum[m][n][i] = 0.f;

    auto doubled = [](float f) { return pair(f, f); };
    for (int step = first; step < last; step += RING) {
#pragma unroll
        for (int d = 0; d < RING; d++) {
            if (step + d >= last) break;
            copy_wait<STAGES - 2>();
            __syncthreads();
            {
                const int next = step + d + STAGES - 1;
                if (next < last) bring((next - first) % STAGES, next);
                else copy_commit();
            }
            const uint4* tile = (const uint4*)(tiles + ((step + d - first) % STAGES) * STAGE) + wk * ROWS * 8;
            const int block = (step + d) * WK + wk;
            u32 sa[MT], sb[MT];
            Zero zero[MT];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                if (h == 0 || HALVES)
#pragma unroll
                    for (int m = 0; m < MT; m++) {
                        const i64 place = (i64)(m * groups + (HALVES ? block * 2 + h : BLOCKS ? block / (BLOCKS > 0 ? BLOCKS : 1) : 0)) * 8;
                        const u32 sc = HALVES ? s[place] : scale[d][m];
                        sa[m] = doubled(half_low(sc)), sb[m] = doubled(half_high(sc));
                        zero[m] = zero_of(z, place);
                    }
                uint4 acts[NT];
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    const int row = (wn * NT + n) * 8 + g;
                    acts[n] = tile[row * 8 + ((h * 4 + t) ^ (4 * (row & 1)))];
                }
#pragma unroll
                for (int q = 0; q < 2; q++)
#pragma unroll
                    for (int m = 0; m < MT; m++) {
                        u32 a[4];
                        unpack(word(ring[d][m], h * 2 + q), zero[m].a, zero[m].b, a);
#pragma unroll
                        for (int i = 0; i < 4; i++) a[i] = fma2(a[i], i & 1 ? sb[m] : sa[m], MINUS_ZERO2);
#pragma unroll
                        for (int n = 0; n < NT; n++) mma(sum[m][n], a, q ? acts[n].z : acts[n].x, q ? acts[n].w : acts[n].y);
                    }
            }
            if (step + d + RING < last) fetch(d, step + d + RING);
        }
    }

    // the WK warps of a place add up in shared memory, then the tile is written row by row
    copy_wait<0>();
    __syncthreads();
    constexpr int WIDE = TILE_OUTS + 4;
    float* sums = (float*)memory;  // [rows][outs of the tile]
#pragma unroll
    for (int k = 0; k < WK; k++) {
        if (wk == k)
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int n = 0; n < NT; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        float& to = sums[((wn * NT + n) * 8 + 2 * t + i % 2) * WIDE + (wm * MT + m) * 16 + g + 8 * (i / 2)];
                        to = k ? to + sum[m][n][i] : sum[m][n][i];
                    }
        __syncthreads();
    }
    constexpr int OUTS = SILU ? TILE_OUTS / 2 : TILE_OUTS;
    for (int i = threadIdx.x * 4; i < OUTS * ROWS; i += THREADS * 4) {
        const int row = i / OUTS, o = i % OUTS;
        if (base + row >= rows) break;
        if (SILU) {
            const float* p = sums + row * WIDE + o / 16 * 32 + o % 16;
            float y[4];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const float gate = rounded(p[k]), up = rounded(p[k + 16]);
                y[k] = rounded(gate / (1.f + __expf(-gate))) * up;
            }
            *(uint2*)((u16*)out + (i64)(base + row) * (outs / 2) + (i64)strip * OUTS + o) = make_uint2(pair(y[0], y[1]), pair(y[2], y[3]));
        } else {
            *(float4*)((float*)out + ((i64)split * rows + base + row) * outs + (i64)strip * OUTS + o) =
                *(const float4*)(sums + row * WIDE + o);
        }
    }
}
#define TILE_KERNEL(NAME, MT, NT, WM, WN, WK, STAGES, RING, AT_ONCE, BLOCKS, SILU, ZEROS)                              \
    extern "C" __global__ __launch_bounds__(WM * WN * WK * WARP, AT_ONCE) void NAME(                                   \
        const uint4* weights, const u32* scales, const u32* zeros, const u16* x, void* out, int rows, int outs,        \
        int blocks, int groups, int splits) {                                                                          \
        int4_tile<MT, NT, WM, WN, WK, STAGES, RING, BLOCKS, SILU, ZEROS>(weights, scales, zeros, x, out, rows, outs, blocks, groups, splits); \
    }

// ---- the weights themselves -----------------------------------------------------------------------------------------
// Rows [from, from + gridDim.x·16) of W as 16-bit floats, [rows][in]. Grid (16-row strips, parts of the inputs).

extern "C" __global__ void int4_widen(
    const uint4* weights, const u32* scales, const u32* zeros, u16* out, int from, int blocks, int groups) {
    const int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4, m = from / 16 + blockIdx.x;
    const int warps = gridDim.y * (blockDim.x / WARP);
    for (int block = blockIdx.y * (blockDim.x / WARP) + threadIdx.x / WARP; block < blocks; block += warps) {
        const uint4 v = stream(weights + ((i64)m * blocks + block) * WARP + lane);
        uint4 row[2][2];  // [row g, row g+8][half]
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int group = (int)(((i64)block * 2 + j / 2) * groups / ((i64)blocks * 2));
            const i64 place = ((i64)m * groups + group) * 8 + g;
            const u32 sc = scales[place];
            const Zero zero = zero_of(zeros, place);
            u32 a[4];
            unpack(word(v, j), zero.a, zero.b, a);
            const u32 sa = pair(half_low(sc), half_low(sc)), sb = pair(half_high(sc), half_high(sc));
            uint4& top = row[0][j / 2];
            uint4& bottom = row[1][j / 2];
            const u32 t0 = fma2(a[0], sa, MINUS_ZERO2), t1 = fma2(a[2], sa, MINUS_ZERO2);
            const u32 b0 = fma2(a[1], sb, MINUS_ZERO2), b1 = fma2(a[3], sb, MINUS_ZERO2);
            if (j % 2 == 0) top.x = t0, top.y = t1, bottom.x = b0, bottom.y = b1;
            else top.z = t0, top.w = t1, bottom.z = b0, bottom.w = b1;
        }
        u16* p = out + ((i64)blockIdx.x * 16 + g) * blocks * 64 + block * 64 + t * 8;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            *(uint4*)(p + 32 * h) = row[0][h];
            *(uint4*)(p + (i64)8 * blocks * 64 + 32 * h) = row[1][h];
        }
    }
}

