/* Attention of few query rows over slots in any mixture of formats, on a CPU: what one decode step needs.
 *
 * Slots are decoded a tile at a time into a buffer that stays in the first cache and used by all query rows of their
 * KV head, with an online softmax, so every stored byte is read once. Tasks (a run, a piece of its slots) go to
 * threads; their partial results are merged exactly at the end.
 *
 * Codes are decoded to *plane order*: field j of every byte, then field j+1 (position j*W + w is channel fields*w + j).
 * Keys meet queries that were put in the same order, and the order of the output is undone once, in the merge.
 *
 * Only plain C with the vector types that gcc and clang share. No fast-math: -inf means "no slot" here.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define TILE 16      /* slots at a time: dense rows of 64 channels fill a page, which keeps both streams prefetched */
#define MAX_DIM 512
#define PIECE 512    /* fewest slots worth a task of their own */
#define GRAIN 32768  /* numbers worth one more thread, as in torch */
#define LINE 16      /* floats of a cache line */

typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float v4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t i8 __attribute__((vector_size(32)));

enum { FP32, BF16, PER_CHANNEL, PER_TOKEN };

/* One side (keys or values) of a rectangle of runs. Mirrored by kvpress/attention/backends/cpu.py. */
typedef struct {
    const char *data;      /* rows or codes, a slot after the other */
    const uint16_t *step;  /* fp16, (runs, groups, dim) per channel, (runs, slots, groups) per token */
    const uint16_t *lo;    /* as step */
    const int32_t *owner;  /* (runs, slots) group of each slot, or NULL: slot / group */
    int64_t run_bytes;     /* from a run's data to the next */
    int64_t groups, group, bits, format, dim;
} Side;

typedef struct {
    Side key, value;
    int64_t slots, count;          /* slots of a run, runs */
    const int64_t *runs;           /* (count,) which run of the query each one is, or NULL: the same */
    const int32_t *pos;            /* slots with pos < 0 are holes, or NULL; from run to run: pos_stride */
    const uint8_t *valid;          /* slots with valid == 0 are padding, or NULL; from row to row: valid_stride */
    int64_t pos_stride, valid_stride, heads;
} Part;

/* A piece of a run's slots, and its unnormalized result: acc (rows, dim) in plane order, top and total (rows). */
typedef struct {
    const Part *part;
    int64_t run, start, stop;
    float *acc, *top, *total, *queries;
} Task;

static inline v8 load(const float *p) { return *(const v8 *)p; }

static inline float sum(v8 x) {
    v4 half[2];
    memcpy(half, &x, sizeof x);
    v4 s = half[0] + half[1];
    return (s[0] + s[2]) + (s[1] + s[3]);
}

/* exp for x <= 0, within 2 units in the last place; 0 from -87 on. */
static inline v8 exponential(v8 x) {
    const v8 shift = (v8){} + 12582912.0f; /* adding and taking it away rounds to an integer */
    i8 live = x > -87.0f;
    x = (v8)((i8)x & live);
    v8 k = x * 1.44269504f + shift - shift;
    v8 f = x - k * 0.693359375f + k * 2.12194440e-4f;
    v8 y = f * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * f + 8.3334519073e-3f;
    y = y * f + 4.1665795894e-2f;
    y = y * f + 1.6666665459e-1f;
    y = y * f + 5.0000001201e-1f;
    y = y * f * f + f + 1.0f;
    i8 power = (__builtin_convertvector(k, i8) + 127) << 23;
    return (v8)((i8)(y * (v8)power) & live);
}

/* Steps and minima are finite, so no case for infinities. */
static inline float half(uint16_t h) {
    union { uint32_t bits; float value; } x = {(uint32_t)(h & 0x7fff) << 13};
    x.value *= 0x1p112f;
    x.bits |= (uint32_t)(h & 0x8000) << 16;
    return x.value;
}

static int fields(const Side *s) { return s->format >= PER_CHANNEL ? 8 / (int)s->bits : 1; }

/* dst[position] = src[channel] in plane order. */
static void to_planes(const float *src, float *dst, int dim, int per_byte) {
    for (int w = 0; w < dim / per_byte; w++)
        for (int j = 0; j < per_byte; j++) dst[j * (dim / per_byte) + w] = src[w * per_byte + j];
}

/* The steps and minima of a group of slots, as floats in plane order. */
typedef struct {
    int64_t group;
    float step[MAX_DIM], lo[MAX_DIM];
} Scales;

static void open_group(const Side *s, int64_t run, int64_t group, Scales *scales) {
    float plain[MAX_DIM];
    int64_t at = (run * s->groups + group) * s->dim;
    for (int c = 0; c < s->dim; c++) plain[c] = half(s->step[at + c]);
    to_planes(plain, scales->step, (int)s->dim, fields(s));
    for (int c = 0; c < s->dim; c++) plain[c] = half(s->lo[at + c]);
    to_planes(plain, scales->lo, (int)s->dim, fields(s));
    scales->group = group;
}

#define INLINE static inline __attribute__((always_inline))

INLINE void slot_per_channel(const uint8_t *restrict codes, float *restrict out, int width, int bits,
                             const float *restrict step, const float *restrict lo) {
    for (int j = 0; j < 8 / bits; j++)
        for (int w = 0; w < width; w++) {
            int at = j * width + w;
            out[at] = (float)((codes[w] >> (bits * j)) & ((1 << bits) - 1)) * step[at] + lo[at];
        }
}

/* span: bytes that share a step. */
INLINE void slot_per_token(const uint8_t *restrict codes, float *restrict out, int width, int bits, int span,
                           const float *restrict step, const float *restrict lo) {
    for (int y = 0; y < width / span; y++)
        for (int j = 0; j < 8 / bits; j++)
            for (int w = y * span; w < y * span + span; w++)
                out[j * width + w] = (float)((codes[w] >> (bits * j)) & ((1 << bits) - 1)) * step[y] + lo[y];
}

INLINE void per_channel(const Side *s, int64_t run, int64_t slots, int64_t start, int n, int bits, int width,
                        Scales *scales, float *tile) {
    const uint8_t *codes = (const uint8_t *)s->data + run * s->run_bytes;
    for (int t = 0; t < n; t++) {
        int64_t slot = start + t, group = s->owner ? s->owner[run * slots + slot] : slot / s->group;
        if (group != scales->group) open_group(s, run, group, scales);
        slot_per_channel(codes + slot * width, tile + t * s->dim, width, bits, scales->step, scales->lo);
    }
}

INLINE void per_token(const Side *s, int64_t run, int64_t slots, int64_t start, int n, int bits, int width, int span,
                      float *tile) {
    const uint8_t *codes = (const uint8_t *)s->data + run * s->run_bytes + start * width;
    int64_t first = (run * slots + start) * s->groups;
    for (int t = 0; t < n; t++, codes += width, first += s->groups) {
        float step[MAX_DIM / 2], lo[MAX_DIM / 2];
        for (int y = 0; y < width / span; y++) step[y] = half(s->step[first + y]), lo[y] = half(s->lo[first + y]);
        slot_per_token(codes, tile + t * s->dim, width, bits, span, step, lo);
    }
}

/* Slots start .. start+n of a run as (n, dim) floats in plane order; dense fp32 rows are used where they lie. */
static const float *decode(const Side *s, int64_t run, int64_t slots, int64_t start, int n, Scales *scales, float *tile) {
    int bits = (int)s->bits, width = (int)s->dim * bits / 8;
    if (s->format == FP32) return (const float *)(s->data + run * s->run_bytes) + start * s->dim;
    if (s->format == BF16) {
        const uint16_t *rows = (const uint16_t *)(s->data + run * s->run_bytes) + start * s->dim;
        for (int64_t i = 0; i < n * s->dim; i++) ((uint32_t *)tile)[i] = (uint32_t)rows[i] << 16;
        return tile;
    }
    int span = (int)s->group * bits / 8;
    /* Constants let the compiler unroll the shapes that matter; the last call of each is for all others. */
#define CHANNEL(b, w) if (bits == b && (w == 0 || width == w)) { per_channel(s, run, slots, start, n, b, w ? w : width, scales, tile); return tile; }
#define TOKEN(b, w, p) if (bits == b && (w == 0 || (width == w && span == p))) { per_token(s, run, slots, start, n, b, w ? w : width, w ? p : span, tile); return tile; }
    if (s->format == PER_CHANNEL) {
        CHANNEL(2, 16) CHANNEL(2, 32) CHANNEL(4, 32) CHANNEL(4, 64) CHANNEL(2, 0) CHANNEL(4, 0) CHANNEL(8, 0)
    } else {
        TOKEN(2, 16, 8) TOKEN(2, 32, 8) TOKEN(4, 32, 16) TOKEN(4, 64, 16) TOKEN(2, 0, 0) TOKEN(4, 0, 0) TOKEN(8, 0, 0)
    }
    return tile;
}

/* Query rows are taken in pairs, so that what was loaded of a slot serves both. */
INLINE void dots_pair(const float *k, const float *x, const float *y, int n, int dim, float *left, float *right) {
    int t = 0;
    for (; t + 4 <= n; t += 4) {
        const float *a = k + t * dim;
        v8 l[4] = {}, r[4] = {};
        for (int c = 0; c < dim; c += 8) {
            v8 u = load(x + c), w = load(y + c);
            for (int i = 0; i < 4; i++) {
                v8 z = load(a + i * dim + c);
                l[i] += u * z, r[i] += w * z;
            }
        }
        for (int i = 0; i < 4; i++) left[t + i] = sum(l[i]), right[t + i] = sum(r[i]);
    }
    for (; t < n; t++) {
        v8 l = {}, r = {};
        for (int c = 0; c < dim; c += 8) l += load(x + c) * load(k + t * dim + c), r += load(y + c) * load(k + t * dim + c);
        left[t] = sum(l), right[t] = sum(r);
    }
}

/* logits[r][t] = q[r] . k[t]; rows and logits of an odd last row are paired with themselves. */
static void dots(const float *k, const float *q, int n, int rows, int dim, float (*logits)[TILE]) {
    for (int r = 0; r < rows; r += 2) {
        int other = r + 1 < rows ? r + 1 : r;
        dots_pair(k, q + r * dim, q + other * dim, n, dim, logits[r], logits[other]);
    }
}

#define BLOCK 4 /* 4 vectors of 2 rows are 8 registers, on every machine there are 16 */

INLINE void mix_block(const float *v, const float *p, const float *q, int n, int dim, float *left, float *right,
                      int blocks) {
    v8 l[BLOCK], r[BLOCK];
    for (int b = 0; b < blocks; b++) l[b] = load(left + 8 * b), r[b] = load(right + 8 * b);
    for (int t = 0; t < n; t++)
        for (int b = 0; b < blocks; b++) {
            v8 z = load(v + t * dim + 8 * b);
            l[b] += p[t] * z, r[b] += q[t] * z;
        }
    for (int b = 0; b < blocks; b++) *(v8 *)(left + 8 * b) = l[b], *(v8 *)(right + 8 * b) = r[b];
}

/* acc[r] += p[r] @ v */
static void mix(const float *v, float (*p)[TILE], int n, int rows, int dim, float *acc) {
    float spare[MAX_DIM]; /* an odd last row is paired with this, which nobody reads */
    for (int r = 0; r < rows; r += 2) {
        float *left = acc + r * dim, *right = r + 1 < rows ? left + dim : spare;
        const float *q = p[r + 1 < rows ? r + 1 : r];
        if (right == spare) memset(spare, 0, sizeof(float) * (size_t)dim);
        int c = 0;
        for (; c + 8 * BLOCK <= dim; c += 8 * BLOCK) mix_block(v + c, p[r], q, n, dim, left + c, right + c, BLOCK);
        for (; c < dim; c += 8) mix_block(v + c, p[r], q, n, dim, left + c, right + c, 1);
    }
}

/* Logits to weights exp(logit - top), the highest logit so far kept in *top; returns what to scale the past by. */
static float weights(float *x, int n, float *top, float *total) {
    for (int t = n; t % 8; t++) x[t] = -INFINITY;
    v8 m = (v8){} + *top;
    for (int t = 0; t < n; t += 8) {
        v8 y = load(x + t);
        i8 above = y > m;
        m = (v8)(((i8)y & above) | ((i8)m & ~above));
    }
    float most = m[0];
    for (int i = 1; i < 8; i++) most = m[i] > most ? m[i] : most;
    if (most == -INFINITY) {
        memset(x, 0, sizeof(float) * (size_t)n);
        return 1.0f;
    }
    float factor = *top == most ? 1.0f : expf(*top - most);
    v8 s = {};
    for (int t = 0; t < n; t += 8) {
        v8 y = exponential(load(x + t) - most);
        *(v8 *)(x + t) = y;
        s += y;
    }
    *top = most;
    *total = *total * factor + sum(s);
    return factor;
}

static void run_task(const Task *task, const float *q, int rows, float scale, float cap) {
    const Part *p = task->part;
    float *acc = task->acc, *top = task->top, *total = task->total, *queries = task->queries;
    int kdim = (int)p->key.dim, vdim = (int)p->value.dim;
    float tile[TILE * MAX_DIM] __attribute__((aligned(64)));
    Scales kscales, vscales;
    float logits[rows][TILE] __attribute__((aligned(64)));
    const int32_t *pos = p->pos ? p->pos + task->run * p->pos_stride : NULL;
    const uint8_t *valid = p->valid ? p->valid + task->run / p->heads * p->valid_stride : NULL;

    kscales.group = vscales.group = -1;
    for (int r = 0; r < rows; r++) {
        float scaled[MAX_DIM];
        for (int c = 0; c < kdim; c++) scaled[c] = q[r * kdim + c] * scale;
        to_planes(scaled, queries + r * kdim, kdim, fields(&p->key));
        top[r] = -INFINITY, total[r] = 0.0f;
    }
    memset(acc, 0, sizeof(float) * (size_t)(rows * vdim));
    for (int64_t start = task->start; start < task->stop; start += TILE) {
        int n = task->stop - start < TILE ? (int)(task->stop - start) : TILE;
        dots(decode(&p->key, task->run, p->slots, start, n, &kscales, tile), queries, n, rows, kdim, logits);
        const float *v = decode(&p->value, task->run, p->slots, start, n, &vscales, tile);
        for (int r = 0; r < rows; r++) {
            float *x = logits[r];
            if (cap > 0.0f)
                for (int t = 0; t < n; t++) x[t] = tanhf(x[t] / cap) * cap;
            if (pos)
                for (int t = 0; t < n; t++) x[t] = pos[start + t] < 0 ? -INFINITY : x[t];
            if (valid)
                for (int t = 0; t < n; t++) x[t] = valid[start + t] ? x[t] : -INFINITY;
            float factor = weights(x, n, top + r, total + r);
            if (factor != 1.0f)
                for (int c = 0; c < vdim; c++) acc[r * vdim + c] *= factor;
        }
        mix(v, logits, n, rows, vdim, acc);
    }
}

/* Exact union of the tasks' results, as kvpress/attention/partial.py merges them; out (runs, rows, dim), lse (runs, rows). */
static void merge(const Task *tasks, int64_t count, int64_t runs, int rows, int dim, float *out, float *lse,
                  float *sums) {
    for (int64_t i = 0; i < runs * rows; i++) lse[i] = -INFINITY, sums[i] = 0.0f;
    memset(out, 0, sizeof(float) * (size_t)(runs * rows * dim));
    for (int pass = 0; pass < 2; pass++)
        for (int64_t i = 0; i < count; i++) {
            const Part *p = tasks[i].part;
            int64_t run = p->runs ? p->runs[tasks[i].run] : tasks[i].run;
            int per_byte = fields(&p->value), width = dim / per_byte;
            for (int r = 0; r < rows; r++) {
                float top = tasks[i].top[r], *most = lse + run * rows + r;
                if (pass == 0) {
                    *most = top > *most ? top : *most;
                    continue;
                }
                if (top == -INFINITY) continue;
                const float *acc = tasks[i].acc + r * dim;
                float factor = expf(top - *most), *o = out + (run * rows + r) * dim;
                sums[run * rows + r] += factor * tasks[i].total[r];
                for (int w = 0; w < width; w++)
                    for (int j = 0; j < per_byte; j++) o[w * per_byte + j] += factor * acc[j * width + w];
            }
        }
    for (int64_t i = 0; i < runs * rows; i++) {
        if (sums[i] == 0.0f) continue;
        for (int c = 0; c < dim; c++) out[i * dim + c] /= sums[i];
        lse[i] += logf(sums[i]);
    }
}

/* q (runs, rows, kdim) fp32 -> out (runs, rows, vdim), lse (runs, rows). 0, or 1 when memory is short. */
int kvpress_attend(const Part *parts, int64_t count, const float *q, int64_t runs, int64_t rows, double scale, double cap,
                   float *out, float *lse, int64_t threads) {
    int64_t numbers = 0, tasks = 0, n = (int64_t)rows;
    int64_t kdim = parts[0].key.dim, vdim = parts[0].value.dim;
    for (int64_t p = 0; p < count; p++) numbers += parts[p].count * parts[p].slots * kdim;
    if (threads > 1 + numbers / GRAIN) threads = 1 + numbers / GRAIN;
    /* Four tasks a thread even out what neighbours on the machine take away. */
    int64_t piece = numbers / kdim / (4 * threads) + 1;
    piece = piece < PIECE ? PIECE : (piece + TILE - 1) / TILE * TILE;
    for (int64_t p = 0; p < count; p++) tasks += parts[p].count * ((parts[p].slots + piece - 1) / piece);

    /* Every task has cache lines of its own, or the threads would fight for the shared ones. */
    int64_t each = (n * (kdim + vdim + 2) + LINE - 1) / LINE * LINE;
    Task *list = malloc(sizeof(Task) * (size_t)(tasks + 1));
    float *work = malloc(sizeof(float) * (size_t)(tasks * each + runs * n + LINE));
    if (!list || !work) {
        free(list), free(work);
        return 1;
    }
    float *block = (float *)(((uintptr_t)work + 4 * LINE - 1) / (4 * LINE) * (4 * LINE));
    Task *next = list;
    for (int64_t p = 0; p < count; p++)
        for (int64_t run = 0; run < parts[p].count; run++)
            for (int64_t start = 0; start < parts[p].slots; start += piece, block += each) {
                int64_t stop = start + piece < parts[p].slots ? start + piece : parts[p].slots;
                float *top = block + n * (kdim + vdim);
                *next++ = (Task){parts + p, run, start, stop, block, top, top + n, block + n * vdim};
            }
    float *sums = block;
#pragma omp parallel for schedule(dynamic) num_threads((int)threads) if (threads > 1)
    for (int64_t i = 0; i < tasks; i++) {
        const Part *p = list[i].part;
        int64_t run = p->runs ? p->runs[list[i].run] : list[i].run;
        run_task(list + i, q + run * n * kdim, (int)n, (float)scale, (float)cap);
    }
    merge(list, tasks, runs, (int)n, (int)vdim, out, lse, sums);
    free(list), free(work);
    return 0;
}
