// Attention over a paged cache, of single tokens (`attend`) and of runs of a prompt's tokens (`attend_chunk`).
//
// `attend`: each row looks back over `lengths[row]` tokens in the pages of its slot. A block takes a row, a key head with
// its G query heads, and one of `splits` spans of the tokens; its warps take sixteen tokens in turn. Scores are K·Qᵀ and
// the answer is Vᵀ·Pᵀ: an m16n8k16 step has 16 tokens, or 16 of the D numbers, as rows and the heads as columns. The order
// of what is summed is free, so a lane reads eight neighbouring numbers and uses them in several steps. The warps meet at
// the end, and the block that is last to finish a row and head merges its spans in order. Scores are in powers of two:
// `scale` has log2(e) in it. Pages hold a power of two of tokens, no fewer than sixteen.
//
// What a block leaves for merging: in `partial` sums [cells][splits][rows of a block][D] that are not divided yet, behind
// all of them (maximum, mass) of each row; in `done`, zero before and after, how many blocks of a cell have come so far.

#include "common.cuh"

#define ATTEND_WARPS 4

// 8-bit floats (e4m3), of whose four in a word the first and third, or the second and fourth, become 16-bit floats.
// Moved into place their bits are those of the number divided by a power of two.
#if FP16
#define FP8_SHIFT 7
#define FP8_MASK 0x3f803f80u
#define FP8_UNIT2 0x5c005c00u  // 2^8 twice
#else
#define FP8_SHIFT 4
#define FP8_MASK 0x07f007f0u
#define FP8_UNIT2 0x7b807b80u  // 2^120 twice
#endif
__device__ __forceinline__ u32 first_and_third(u32 four) {
    return fma2(((four << 8) & 0x80008000u) | ((four << FP8_SHIFT) & FP8_MASK), FP8_UNIT2, MINUS_ZERO2);
}
__device__ __forceinline__ u32 second_and_fourth(u32 four) {
    return fma2((four & 0x80008000u) | ((four >> (8 - FP8_SHIFT)) & FP8_MASK), FP8_UNIT2, MINUS_ZERO2);
}

__device__ __forceinline__ u32 low_halves(u32 a, u32 b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ u32 high_halves(u32 a, u32 b) { return __byte_perm(a, b, 0x7632); }

__device__ __forceinline__ uint4 eight_of_fp8(uint2 v) {
    const u32 a = first_and_third(v.x), b = second_and_fourth(v.x), c = first_and_third(v.y), d = second_and_fourth(v.y);
    return make_uint4(low_halves(a, b), high_halves(a, b), low_halves(c, d), high_halves(c, d));
}

// ---- single tokens --------------------------------------------------------------------------------------------------

__device__ __forceinline__ uint2 fresh_two(const void* p) {
    uint2 v;
    asm volatile("ld.global.cg.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p) : "memory");
    return v;
}

__device__ __forceinline__ float power_of_two(float exponent) {
    float v;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(v) : "f"(exponent));
    return v;
}

// An 8×8 matrix of 16-bit numbers, two of a row in each lane, transposed.
__device__ __forceinline__ u32 turned(u32 two) {
    u32 r;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(two));
    return r;
}

// How many blocks came here before. This one sees all that they wrote until then, after a __syncthreads.
__device__ __forceinline__ int counted(int* count) {
    int before;
    asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;" : "=r"(before) : "l"(count) : "memory");
    return before;
}

__device__ __forceinline__ void add(float4& v, const float4& more, float weight) {
    v.x += more.x * weight, v.y += more.y * weight, v.z += more.z * weight, v.w += more.w * weight;
}

__device__ __forceinline__ void write(u16* to, const float4& v, float mass) {
    *(uint2*)to = make_uint2(pair(v.x / mass, v.y / mass), pair(v.z / mass, v.w / mass));
}

// Four numbers of a row from `parts` blocks, whose rows lie `stride` apart, in order. The first has a key for the row.
template <int D>
__device__ __forceinline__ float merged(
    const float* partial, i64 states, i64 row, int stride, int parts, int d, float4& v) {
    constexpr int AT_ONCE = 4;
    float top = NOTHING, mass = 0.f;
    v = make_float4(0.f, 0.f, 0.f, 0.f);
    for (int s = 0; s < parts; s += AT_ONCE) {
        uint4 sums[AT_ONCE];
        uint2 state[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            const i64 at = row + (i64)min(s + k, parts - 1) * stride;
            sums[k] = fresh(partial + at * D + d), state[k] = fresh_two(partial + states + at * 2);
        }
        float rise = top;
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) rise = fmaxf(rise, __uint_as_float(state[k].x));
        const float shrink = power_of_two(top - rise);
        top = rise, mass *= shrink, v.x *= shrink, v.y *= shrink, v.z *= shrink, v.w *= shrink;
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            const float weight = s + k < parts ? power_of_two(__uint_as_float(state[k].x) - top) : 0.f;
            mass += __uint_as_float(state[k].y) * weight;
            add(v, *(const float4*)&sums[k], weight);
        }
    }
    return mass;
}

// Eight neighbouring numbers of a key or value, as they lie in the cache. pair(k), k < 4: two of them in the order of
// `arranged`, which is how the query must lie. join(a, b, k): numbers 2k of a and b, then numbers 2k + 1 of both.
template <bool FP8> struct Eight;
template <> struct Eight<false> {
    u32 words[4];
    __device__ __forceinline__ void read(const void* cache, i64 at) {
        const uint4 v = fresh((const u16*)cache + at);
        words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
    }
    __device__ __forceinline__ u32 pair(int k) const { return words[k]; }
    static __device__ __forceinline__ uint4 arranged(uint4 v) { return v; }
    static __device__ __forceinline__ uint2 join(const Eight& a, const Eight& b, int k) {
        return make_uint2(low_halves(a.words[k], b.words[k]), high_halves(a.words[k], b.words[k]));
    }
};
template <> struct Eight<true> {
    u32 words[2];
    __device__ __forceinline__ void read(const void* cache, i64 at) {
        const uint2 v = fresh_two((const unsigned char*)cache + at);
        words[0] = v.x, words[1] = v.y;
    }
    __device__ __forceinline__ u32 pair(int k) const {
        return k % 2 ? second_and_fourth(words[k / 2]) : first_and_third(words[k / 2]);
    }
    static __device__ __forceinline__ uint4 arranged(uint4 v) {
        return make_uint4(low_halves(v.x, v.y), high_halves(v.x, v.y), low_halves(v.z, v.w), high_halves(v.z, v.w));
    }
    static __device__ __forceinline__ uint2 join(const Eight& a, const Eight& b, int k) {
        const u32 x = a.words[k / 2], y = b.words[k / 2], both = k % 2 ? high_halves(x, y) : low_halves(x, y);
        return make_uint2(first_and_third(both), second_and_fourth(both));
    }
};

template <int D, int G, bool FP8>
__device__ __forceinline__ void attend(
    const u16* queries, const void* cache, const int* tables, const int* slots, const int* lengths, u16* out,
    float* partial, int* done, float scale, int kv_heads, int max_pages, int page_tokens) {
    constexpr int WARPS = ATTEND_WARPS, TURN = 16, ROUND = WARPS * TURN;  // tokens of a warp's turn, and of all warps'
    __shared__ uint4 asked[D / 32][WARP];
    __shared__ __align__(16) float meeting[WARPS][G][D + 4];
    __shared__ float tops[WARPS][G], masses[WARPS][G];
    __shared__ int parts;  // spans of the row that hold a token; here since registers are short
    __shared__ bool is_last;
    launch_next();
    wait_for_last();
    const int splits = gridDim.x, split = blockIdx.x, kv_head = blockIdx.y, row = blockIdx.z;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
    const int cell = row * kv_heads + kv_head;
    const int length = lengths[row];
    const int listed = slots[row] * max_pages;
    uint4 query = make_uint4(0, 0, 0, 0);  // warp s brings for all, of head g, the eight from 32·s + 8·t
    if (g < G && warp < D / 32) query = fresh(queries + ((i64)cell * G + g) * D + warp * 32 + t * 8);

    const int span = ((length + splits - 1) / splits + ROUND - 1) / ROUND * ROUND;
    const int begin = split * span, end = min(length, begin + span);
    if (begin >= end) return;
    const int page_bits = __ffs(page_tokens) - 1;
    if (threadIdx.x == 0) parts = (length + span - 1) / span;
    const i64 plane = (i64)kv_heads * page_tokens * D;  // keys of a page; its values lie behind them

    Eight<FP8> key[2][D / 32], value[4][D / 64];
    int token = begin + warp * TURN, last = 0;  // the first token of a turn; the last of its sixteen
    int pages = 0;                              // in lane i the page of this warp's turn of round i, of 32
    i64 place = 0;                              // where the turn's keys begin in the cache
    auto find = [&](bool first) {
        const int round = token / ROUND % WARP;
        if (first || round == 0) pages = tables[listed + (min(token + (lane - round) * ROUND, end - 1) >> page_bits)];
        const i64 page = __shfl_sync(0xffffffffu, pages, round);
        place = page * 2 * plane + (kv_head * page_tokens + (token & (page_tokens - 1))) * D;
        last = end - 1 - token;
    };
    auto read_keys = [&] {  // of tokens g and g + 8
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int s = 0; s < D / 32; s++) key[i][s].read(cache, place + min(g + 8 * i, last) * D + s * 32 + t * 8);
    };
    auto read_values = [&] {  // of tokens 2t, 2t + 1, 2t + 8, 2t + 9
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int s = 0; s < D / 64; s++)
                value[i][s].read(cache, place + plane + min(2 * t + i % 2 + i / 2 * 8, last) * D + s * 64 + g * 8);
    };
    // sum[4·s + k]: numbers 64·s + 8·g + 2k of heads 2t and 2t + 1, then the numbers behind them of both
    float sum[D / 16][4], best[2] = {NOTHING, NOTHING}, mass[2] = {0.f, 0.f};
#pragma unroll
    for (int n = 0; n < D / 16; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) sum[n][i] = 0.f;
    if (token < end) find(true), read_keys(), read_values();
    if (warp < D / 32) asked[warp][lane] = Eight<FP8>::arranged(query);
    __syncthreads();

    while (token < end) {
        float score[4] = {0.f, 0.f, 0.f, 0.f};  // of token g with heads 2t and 2t + 1, then of token g + 8
#pragma unroll
        for (int s = 0; s < D / 32; s++) {
            const Eight<FP8>&a = key[0][s], &b = key[1][s];
            const u32 first[4] = {a.pair(0), b.pair(0), a.pair(1), b.pair(1)};
            const u32 second[4] = {a.pair(2), b.pair(2), a.pair(3), b.pair(3)};
            const uint4 q = asked[s][lane];
            mma(score, first, q.x, q.y);
            mma(score, second, q.z, q.w);
        }
        const bool over[2] = {g > last, g + 8 > last};
        token += ROUND;
        if (token < end) find(false), read_keys();
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float &x = score[h], &y = score[h + 2];
            x = over[0] ? NOTHING : x * scale, y = over[1] ? NOTHING : y * scale;
            float top = fmaxf(best[h], fmaxf(x, y));  // a number, since a turn has a token
#pragma unroll
            for (int o = 4; o < WARP; o *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, o));
            const float shrink = power_of_two(best[h] - top);
            best[h] = top, x = power_of_two(x - top), y = power_of_two(y - top);
            mass[h] = mass[h] * shrink + (x + y);
#pragma unroll
            for (int n = 0; n < D / 16; n++) sum[n][h] *= shrink, sum[n][h + 2] *= shrink;
        }
        const u32 early = turned(pair(score[0], score[1])), late = turned(pair(score[2], score[3]));
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            const uint2 a = Eight<FP8>::join(value[0][n / 4], value[1][n / 4], n % 4);
            const uint2 b = Eight<FP8>::join(value[2][n / 4], value[3][n / 4], n % 4);
            const u32 values[4] = {a.x, a.y, b.x, b.y};
            mma(sum[n], values, early, late);
        }
        if (token < end) read_values();
    }

#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int o = 4; o < WARP; o *= 2) mass[h] += __shfl_xor_sync(0xffffffffu, mass[h], o);
        const int head = 2 * t + h;
        if (head >= G) continue;
#pragma unroll
        for (int n = 0; n < D / 16; n += 2)
            *(float4*)&meeting[warp][head][n / 4 * 64 + g * 8 + n % 4 * 2] =
                make_float4(sum[n][h], sum[n][h + 2], sum[n + 1][h], sum[n + 1][h + 2]);
        if (g == 0) tops[warp][head] = best[h], masses[warp][head] = mass[h];
    }
    __syncthreads();
    constexpr int FOURS = D / 4;
    const i64 states = (i64)gridDim.z * kv_heads * splits * G * D;
    for (int i = threadIdx.x; i < G * FOURS; i += WARPS * WARP) {
        const int head = i / FOURS, d = i % FOURS * 4;
        float top = NOTHING, m = 0.f;
        float4 v = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
        for (int w = 0; w < WARPS; w++) top = fmaxf(top, tops[w][head]);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float weight = power_of_two(tops[w][head] - top);  // 0 for a warp that had no turn
            add(v, *(const float4*)&meeting[w][head][d], weight), m += masses[w][head] * weight;
        }
        if (parts == 1) {
            write(out + ((i64)cell * G + head) * D + d, v, m);
        } else {
            const i64 at = ((i64)cell * splits + split) * G + head;
            *(float4*)(partial + at * D + d) = v;
            if (d == 0) *(float2*)(partial + states + at * 2) = make_float2(top, m);
        }
    }
    if (parts == 1) return;
    __syncthreads();
    if (threadIdx.x == 0) {
        is_last = counted(done + cell) == parts - 1;
        if (is_last) done[cell] = 0;
    }
    __syncthreads();
    if (!is_last) return;
    for (int i = threadIdx.x; i < G * FOURS; i += WARPS * WARP) {
        const int head = i / FOURS, d = i % FOURS * 4;
        float4 v;
        const float m = merged<D>(partial, states, (i64)cell * splits * G + head, G, parts, d, v);
        write(out + ((i64)cell * G + head) * D + d, v, m);
    }
}
#define ATTENTION_KERNEL(NAME, D, G, FP8)                                                                              \
    extern "C" __global__ __launch_bounds__(ATTEND_WARPS * WARP, 4) void NAME(                                         \
        const u16* queries, const void* cache, const int* tables, const int* slots, const int* lengths, u16* out,      \
        float* partial, int* done, float scale, int kv_heads, int max_pages, int page_tokens) {                        \
        attend<D, G, FP8>(queries, cache, tables, slots, lengths, out, partial, done, scale, kv_heads, max_pages, page_tokens); \
    }

// ---- runs of a prompt -----------------------------------------------------------------------------------------------
// A block takes a tile of up to WARPS·16/G tokens and a key head with its G query heads: a row of the tile is a token and
// a head. Keys and values pass through shared memory a page at a time, the next while this one is worked on. Where there
// are few tiles the pages are shared by `splits` blocks, since each takes a microsecond and they follow one another.
// tiles: int [tiles][4] = first row of the tile in the step, its tokens (0: none), tokens in the cache before its first,
// its row in `tables`. 16-byte piece c of a row of shared memory lies at c ^ (row % 8).

template <int D, int G, bool FP8, int WARPS>
__device__ __forceinline__ void attend_chunk(
    const u16* queries, const void* cache, const int* tables, const int* tiles, u16* out, float* partial, int* done,
    float scale, int kv_heads, int max_pages) {
    constexpr int PAGE = 32, PIECES = D / 8, STEPS = D / 16, STAGES = 2, ROWS = WARPS * 16;
    constexpr int LEAST = 4;                                     // pages that are worth a block
    constexpr int EACH = 2 * PAGE * PIECES / (WARPS * WARP);     // pieces of a page that a thread brings
    __shared__ __align__(128) u16 pages[STAGES][2][PAGE * D];
    __shared__ bool is_last;
    launch_next();
    wait_for_last();
    const int splits = gridDim.x, split = blockIdx.x, kv_head = blockIdx.y, heads = kv_heads * G;
    const int* tile = tiles + blockIdx.z * 4;
    const int first = tile[0], count = tile[1], before = tile[2];
    if (count == 0) return;
    const int steps = (before + count - 1) / PAGE + 1;
    const int span = max(LEAST, (steps + splits - 1) / splits), parts = (steps + span - 1) / span;
    const int begin = split * span, end = min(steps, begin + span);
    if (begin >= end) return;
    const int* table = tables + (i64)tile[3] * max_pages;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
    const i64 plane = (i64)kv_heads * PAGE * D;

    // A page on its way: 16-bit numbers go straight to shared memory, 8-bit floats wait in registers until `put`.
    uint2 held[FP8 ? EACH : 1];
    auto bring = [&](int page) {
        const i64 base = (i64)table[page] * 2 * plane + (i64)kv_head * PAGE * D;
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            const int i = k * WARPS * WARP + threadIdx.x;
            const int c = i % PIECES, row = i / PIECES % PAGE, kv = i / (PIECES * PAGE);
            const i64 at = base + kv * plane + row * D + c * 8;
            const bool there = page * PAGE + row < before + count;  // what stands behind may be no number
            if (FP8)
                held[k] = there ? fresh_two((const unsigned char*)cache + at) : make_uint2(0, 0);
            else
                copy_async(shared_address(&pages[page % STAGES][kv][row * D + ((c ^ (row % 8)) * 8)]), (const u16*)cache + at, there);
        }
        copy_commit();
    };
    auto put = [&](int page) {
#pragma unroll
        for (int k = 0; k < EACH && FP8; k++) {
            const int i = k * WARPS * WARP + threadIdx.x;
            const int c = i % PIECES, row = i / PIECES % PAGE, kv = i / (PIECES * PAGE);
            *(uint4*)&pages[page % STAGES][kv][row * D + ((c ^ (row % 8)) * 8)] = eight_of_fp8(held[k]);
        }
    };
    bring(begin);
    put(begin);

    // this lane's two rows of the tile: g and g + 8 of its warp's sixteen
    int token[2], head[2];
    u32 q[STEPS][4];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = warp * 16 + g + 8 * r;
        token[r] = row / G, head[r] = kv_head * G + row % G;
        const u16* p = queries + ((i64)(first + min(token[r], count - 1)) * heads + head[r]) * D + 2 * t;
#pragma unroll
        for (int s = 0; s < STEPS; s++) q[s][r] = *(const u32*)(p + 16 * s), q[s][r + 2] = *(const u32*)(p + 16 * s + 8);
    }
    float sum[D / 8][4], best[2] = {NOTHING, NOTHING}, mass[2] = {0.f, 0.f};
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) sum[n][i] = 0.f;

    for (int step = begin; step < end; step++) {
        copy_wait<0>();
        __syncthreads();
        if (step + 1 < end) bring(step + 1);
        const u32 keys = shared_address(pages[step % STAGES][0]), values = shared_address(pages[step % STAGES][1]);
        float score[4][4];
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) score[n][i] = 0.f;
#pragma unroll
        for (int s = 0; s < STEPS; s++)
#pragma unroll
            for (int n = 0; n < 4; n += 2) {  // 16 keys: two tiles of eight, each of two halves of the 16 inputs
                const int row = n * 8 + lane / 16 * 8 + lane % 8, c = 2 * s + lane / 8 % 2;
                u32 b[4];
                load_matrices(b, keys + (row * D + ((c ^ (row % 8)) * 8)) * 2);
                mma(score[n], q[s], b[0], b[1]);
                mma(score[n + 1], q[s], b[2], b[3]);
            }
        const bool edge = step * PAGE + PAGE - 1 > before;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float top = best[r];
#pragma unroll
            for (int n = 0; n < 4; n++)
#pragma unroll
                for (int i = 2 * r; i < 2 * r + 2; i++) {
                    score[n][i] *= scale;
                    if (edge && step * PAGE + n * 8 + 2 * t + i % 2 > before + token[r]) score[n][i] = NOTHING;
                    top = fmaxf(top, score[n][i]);
                }
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
            const float less = top == NOTHING ? 0.f : top;  // who begins behind page 0 may have no key for a row
            const float shrink = exp2f(best[r] - less);
            best[r] = top, mass[r] *= shrink;
#pragma unroll
            for (int n = 0; n < 4; n++)
#pragma unroll
                for (int i = 2 * r; i < 2 * r + 2; i++) {
                    score[n][i] = exp2f(score[n][i] - less);
                    mass[r] += score[n][i];
                }
#pragma unroll
            for (int n = 0; n < D / 8; n++) sum[n][2 * r] *= shrink, sum[n][2 * r + 1] *= shrink;
        }
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const u32 p[4] = {
                pair(score[2 * k][0], score[2 * k][1]), pair(score[2 * k][2], score[2 * k][3]),
                pair(score[2 * k + 1][0], score[2 * k + 1][1]), pair(score[2 * k + 1][2], score[2 * k + 1][3])};
#pragma unroll
            for (int n = 0; n < D / 8; n += 2) {
                const int row = k * 16 + lane % 16, c = n + lane / 16;
                u32 b[4];
                load_matrices_turned(b, values + (row * D + ((c ^ (row % 8)) * 8)) * 2);
                mma(sum[n], p, b[0], b[1]);
                mma(sum[n + 1], p, b[2], b[3]);
            }
        }
        if (step + 1 < end) put(step + 1);
    }
    const i64 cell = (i64)blockIdx.z * kv_heads + kv_head, states = (i64)gridDim.z * kv_heads * splits * ROWS * D;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float m = mass[r];
        m += __shfl_xor_sync(0xffffffffu, m, 1);
        m += __shfl_xor_sync(0xffffffffu, m, 2);
        if (token[r] >= count) continue;
        if (parts == 1) {
            u16* to = out + ((i64)(first + token[r]) * heads + head[r]) * D + 2 * t;
#pragma unroll
            for (int n = 0; n < D / 8; n++) *(u32*)(to + 8 * n) = pair(sum[n][2 * r] / m, sum[n][2 * r + 1] / m);
        } else {
            const i64 at = (cell * splits + split) * ROWS + warp * 16 + g + 8 * r;
#pragma unroll
            for (int n = 0; n < D / 8; n++)
                *(float2*)(partial + at * D + 8 * n + 2 * t) = make_float2(sum[n][2 * r], sum[n][2 * r + 1]);
            if (t == 0) *(float2*)(partial + states + at * 2) = make_float2(best[r], m);
        }
    }
    if (parts == 1) return;
    __syncthreads();
    if (threadIdx.x == 0) {
        is_last = counted(done + cell) == parts - 1;
        if (is_last) done[cell] = 0;
    }
    __syncthreads();
    if (!is_last) return;
    for (int i = threadIdx.x; i < count * G * (D / 4); i += WARPS * WARP) {
        const int row = i / (D / 4), d = i % (D / 4) * 4;
        float4 v;
        const float m = merged<D>(partial, states, cell * splits * ROWS + row, ROWS, parts, d, v);
        write(out + ((i64)(first + row / G) * heads + kv_head * G + row % G) * D + d, v, m);
    }
}
#define CHUNK_KERNEL(NAME, D, G, FP8, WARPS)                                                                           \
    extern "C" __global__ __launch_bounds__(WARPS * WARP) void NAME(                                                   \
        const u16* queries, const void* cache, const int* tables, const int* tiles, u16* out, float* partial,          \
        int* done, float scale, int kv_heads, int max_pages) {                                                         \
        attend_chunk<D, G, FP8, WARPS>(queries, cache, tables, tiles, out, partial, done, scale, kv_heads, max_pages); \
    }
