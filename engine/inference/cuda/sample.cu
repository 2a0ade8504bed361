// Chooses a token for each row: the best score, or one drawn from the best 64, exactly as sampler.py does it.
//
// A block finds the best of its part of a row; the last block of a row to end merges what they found and draws. Scores
// travel as keys, the score's bits in an order that integers have above those of the id turned round, so that the
// greatest key is the best score and, among equals, the lowest id. No key is 0, which stands for none. What is no number
// counts as minus infinity.

#include "common.cuh"

#define THREADS 256
#define TOP 64            // MOST_TOP in sampler.py
#define LARGEST 1e30f     // as in sampler.py
#define WEIGHT 4294967296.f  // of the best token: 2^WEIGHT_BITS
#define STATE 6           // 64-bit words of a slot's state: made, offset, last, seed, top_p, temperature with penalty

struct Row {
    int slot;
    i64* state;
    u32* said;  // a bit an id
    i64 made;
    bool punished;  // whether a penalty falls on what was said
    float penalty;
};

// What another block or an earlier kernel wrote: past the L1.
template <class T> __device__ __forceinline__ T now(const T* p) { return *(const volatile T*)p; }

__device__ __forceinline__ u64 key_of(float score, int id) {
    u32 bits = __float_as_uint(fmaxf(score + 0.f, NOTHING));  // minus zero is no less than zero
    bits = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (u64)bits << 32 | ~(u32)id;
}

__device__ __forceinline__ int id_of(u64 key) { return (int)~(u32)key; }

__device__ __forceinline__ float score_of(u64 key) {
    const u32 bits = (u32)(key >> 32);
    const float score = __uint_as_float(bits >> 31 ? bits ^ 0x80000000u : ~bits);
    return fminf(fmaxf(score, -LARGEST), LARGEST);  // key 0 gives no number, and so the least
}

__device__ __forceinline__ Row row_of(const int* slots, i64* slot_rows, int row_words) {
    Row row;
    row.slot = now(slots + blockIdx.y);
    row.state = slot_rows + (i64)row.slot * row_words;
    row.said = (u32*)(row.state + STATE);
    row.made = now(row.state);
    row.punished = row.made + now(row.state + 1) >= 0;
    row.penalty = now((const float*)(row.state + 5) + 1);
    return row;
}

// Both of these hand over this thread's share of the keys, one by one.

// A part of a row of scores, by rising id. The row may begin at any address: it is read in aligned 16 bytes, with what
// lies before and behind it in the same allocation. said: a bit an id, or null.
template <bool FLOAT> struct Part {
    const void* scores;
    int vocab, vectors;
    const unsigned char* said;
    int said_bytes;
    float penalty;

    template <class Each> __device__ __forceinline__ void operator()(Each each) const {
        constexpr int COUNT = FLOAT ? 4 : 8;
        const u64 address = (u64)scores;
        const int before = (int)(address % 16) / (16 / COUNT), total = (before + vocab + COUNT - 1) / COUNT;
        const int end = min(total, (int)(blockIdx.x + 1) * vectors);
        for (int v = blockIdx.x * vectors + threadIdx.x; v < end; v += THREADS) {
            const uint4 raw = fresh((const uint4*)(address - address % 16) + v);
            const u32 words[4] = {raw.x, raw.y, raw.z, raw.w};
            const int first = v * COUNT - before;
            float s[COUNT];
#pragma unroll
            for (int k = 0; k < COUNT; k++)
                s[k] = FLOAT ? __uint_as_float(words[k % 4]) : k % 2 ? high(words[k / 2 % 4]) : low(words[k / 2 % 4]);
            if (said) {
                const int at = first >> 3;  // −1 where the first of them lie before the row
                const u32 bits = (u32)now(said + max(at, 0)) << (at < 0 ? 8 : 0);
                const u32 punished = (bits | (u32)now(said + min(at + 1, said_bytes - 1)) << 8) >> (first & 7);
#pragma unroll
                for (int k = 0; k < COUNT; k++)
                    if (punished >> k & 1u) s[k] = s[k] > 0.f ? s[k] / penalty : s[k] * penalty;
            }
#pragma unroll
            for (int k = 0; k < COUNT; k++)
                if (first + k >= 0 && first + k < vocab) each(key_of(s[k], first + k));
        }
    }
};

// What all parts of a row found.
struct Found {
    const u64* keys;
    int count;

    template <class Each> __device__ __forceinline__ void operator()(Each each) const {
        for (int i = threadIdx.x; i < count; i += THREADS) each(now(keys + i));
    }
};

struct alignas(16) Shared {
    u64 maxima[THREADS];
    u64 top[TOP];
    u64 least;
    int found;
    bool last;
};

// The best TOP of all threads' keys → shared.top, best first, then zeros. `mine`: the best of this thread's own, which
// `visit` hands over once more. TOP keys are not below the TOP-th of those, so that less need not be looked at; found has
// room for all keys of TOP threads.
template <class Visit> __device__ __forceinline__ void select(u64 mine, Shared& shared, u64* found, Visit visit) {
    shared.maxima[threadIdx.x] = mine;
    if (threadIdx.x < TOP) shared.top[threadIdx.x] = 0;
    if (threadIdx.x == 0) shared.least = 1, shared.found = 0;
    __syncthreads();
    int better = 0;
#pragma unroll 16
    for (int i = 0; i < THREADS; i++) better += shared.maxima[i] > mine;
    if (better == TOP - 1 && mine) shared.least = mine;
    __syncthreads();
    const u64 least = shared.least;
    if (mine >= least) visit([&](u64 key) {
        if (key >= least) found[atomicAdd(&shared.found, 1)] = key;
    });
    __syncthreads();
    const int count = shared.found;
    for (int i = threadIdx.x; i < count; i += THREADS) {
        const u64 key = found[i];
        int place = 0;
#pragma unroll 8
        for (int j = 0; j < count; j++) place += found[j] > key;
        if (place < TOP) shared.top[place] = key;
    }
    __syncthreads();
}

// The greatest of all threads' keys, for thread 0.
__device__ __forceinline__ u64 greatest(u64 mine, Shared& shared) {
#pragma unroll
    for (int o = WARP / 2; o > 0; o /= 2) mine = max(mine, __shfl_xor_sync(0xffffffffu, mine, o));
    if (threadIdx.x % WARP == 0) shared.maxima[threadIdx.x / WARP] = mine;
    __syncthreads();
    for (int w = 0; w < THREADS / WARP; w++) mine = max(mine, shared.maxima[w]);
    return mine;
}

// Whether this block is the last of its row; then it sees what the others wrote. done: a count a row, 0 again after it.
__device__ __forceinline__ bool last_of_row(u32* done, Shared& shared) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        shared.last = atomicAdd(done + blockIdx.y, 1u) == gridDim.x - 1;
        if (shared.last) done[blockIdx.y] = 0;
    }
    __syncthreads();
    __threadfence();
    return shared.last;
}

// The random number of a token, from 0 up to 1; see splitmix in sampler.py.
__device__ __forceinline__ double splitmix(u64 seed, u64 place) {
    u64 mixed = seed + (place + 1) * 0x9e3779b97f4a7c15ull;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9ull;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebull;
    return (double)(mixed >> 33) * 0x1p-31;
}

// The place drawn among shared.top, by one warp; see _draw in sampler.py. A lane holds two neighbours, and all sums are
// whole numbers.
__device__ __forceinline__ int drawn(const u64* top, const i64* state, u64 place) {
    const int lane = threadIdx.x % WARP, last = min((int)now(state + 2), TOP - 1);
    const double top_p = now((const double*)(state + 4));
    const float temperature = now((const float*)(state + 5));
    const float best = score_of(top[0]);
    const u64 a = (u64)floorf(expf((score_of(top[2 * lane]) - best) / temperature) * WEIGHT);
    const u64 b = (u64)floorf(expf((score_of(top[2 * lane + 1]) - best) / temperature) * WEIGHT);
    u64 sum = a + b;
#pragma unroll
    for (int o = 1; o < WARP; o *= 2) {
        const u64 other = __shfl_up_sync(0xffffffffu, sum, o);
        if (lane >= o) sum += other;
    }
    const u64 even = sum - b;
    const u64 mass = __shfl_sync(0xffffffffu, last % 2 ? sum : even, last / 2);
    const double limit = top_p * (double)mass;
    const int least = min(__popc(__ballot_sync(0xffffffffu, (double)even < limit)) +
                              __popc(__ballot_sync(0xffffffffu, (double)sum < limit)),
                          TOP - 1);
    const u64 kept = __shfl_sync(0xffffffffu, least % 2 ? sum : even, least / 2);
    const double target = splitmix((u64)now(state + 3), place) * (double)kept;
    return min(__popc(__ballot_sync(0xffffffffu, (double)even <= target)) +
                   __popc(__ballot_sync(0xffffffffu, (double)sum <= target)),
               TOP - 1);
}

// scores: [rows][stride], 16-bit or, with FLOAT, fp32, of which `vocab` are read. slots: int32 [rows]. slot_rows:
// state and a bit an id of what was said, [slots][row_words]. keys: room for [rows][TOP or 1][parts]. tokens: [slots];
// out: [rows]. An answer longer than `draws` meets its random numbers again.
// Grid: parts of `vectors` 16 bytes each, rows. Shared for the best 64: room for the keys of TOP threads.
#define CHOOSE_KERNEL(NAME, BEST_ONLY, FLOAT)                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(                                                        \
        const void* scores, int stride, int vocab, int vectors, const int* slots, i64* slot_rows,                      \
        int row_words, int draws, u64* keys, u32* done, i64* tokens, i64* out) {                                       \
        choose<BEST_ONLY, FLOAT>(scores, stride, vocab, vectors, slots, slot_rows, row_words, draws, keys, done,       \
                                 tokens, out);                                                                         \
    }

template <bool BEST_ONLY, bool FLOAT>
__device__ __forceinline__ void choose(
    const void* scores, int stride, int vocab, int vectors, const int* slots, i64* slot_rows, int row_words,
    int draws, u64* keys, u32* done, i64* tokens, i64* out) {
    extern __shared__ u64 found[];
    __shared__ Shared shared;
    launch_next();
    wait_for_last();
    const Row row = row_of(slots, slot_rows, row_words);
    const Part<FLOAT> part = {(const char*)scores + (i64)blockIdx.y * stride * (FLOAT ? 4 : 2),
                              vocab,
                              vectors,
                              row.punished ? (const unsigned char*)row.said : nullptr,
                              (row_words - STATE) * 8,
                              row.penalty};
    u64 mine = 0;
    part([&](u64 key) { mine = max(mine, key); });
    const int parts = gridDim.x, count = parts * (BEST_ONLY ? 1 : TOP);
    keys += (i64)blockIdx.y * count;
    if (BEST_ONLY) {
        mine = greatest(mine, shared);
        if (threadIdx.x == 0) keys[blockIdx.x] = mine;
    } else {
        select(mine, shared, found, part);
        if (threadIdx.x < TOP) keys[threadIdx.x * parts + blockIdx.x] = shared.top[threadIdx.x];
    }
    if (!last_of_row(done, shared)) return;

    const Found all = {keys, count};
    mine = 0;
    all([&](u64 key) { mine = max(mine, key); });
    u64 chosen;
    if (BEST_ONLY) {
        chosen = greatest(mine, shared);
    } else {
        select(mine, shared, found, all);
        if (threadIdx.x >= WARP) return;
        chosen = shared.top[drawn(shared.top, row.state, row.made % draws)];
    }
    if (threadIdx.x != 0) return;
    const int token = max(0, min(id_of(chosen), vocab - 1));
    out[blockIdx.y] = tokens[row.slot] = token;
    row.state[0] = row.made + 1;
    if (row.punished) atomicOr(row.said + token / 32, 1u << token % 32);
}
