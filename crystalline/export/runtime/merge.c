/* Byte-pair merging: always the earliest merge, of equal ones the leftmost, by a heap. */
#include "tokenizer.h"

typedef struct {
    const Tokenizer *tokenizer;
    uint32_t *rows;
    uint32_t *next;     /* place to the right; `count` at the end */
    uint32_t *before;   /* place to the left; NO_ROW at the start */
    uint32_t *heap;     /* of candidates: merge, place */
    size_t heap_count;
    size_t count;
} Piece;

static bool earlier(const uint32_t *a, const uint32_t *b) {
    return a[0] != b[0] ? a[0] < b[0] : a[1] < b[1];
}

static void swap(uint32_t *a, uint32_t *b) {
    for (int i = 0; i < 2; i++) {
        const uint32_t kept = a[i];
        a[i] = b[i];
        b[i] = kept;
    }
}

/* Notes that the rows at `place` and to its right can be merged, if they can. A place has at most
 * two candidates at a time that are not stale plus stale ones; see `cr_merge_all` for the room. */
static void offer(Piece *piece, uint32_t place) {
    const uint32_t right = piece->next[place];
    if (right >= piece->count)
        return;
    const uint32_t merge = cr_merge_of(piece->tokenizer, piece->rows[place], piece->rows[right]);
    if (merge == NO_ROW)
        return;
    size_t at = piece->heap_count++;
    uint32_t *heap = piece->heap;
    heap[2 * at] = merge;
    heap[2 * at + 1] = place;
    while (at > 0 && earlier(&heap[2 * at], &heap[2 * ((at - 1) / 2)])) {
        swap(&heap[2 * at], &heap[2 * ((at - 1) / 2)]);
        at = (at - 1) / 2;
    }
}

static void drop_first(Piece *piece) {
    uint32_t *heap = piece->heap;
    const size_t count = --piece->heap_count;
    swap(&heap[0], &heap[2 * count]);
    for (size_t at = 0;;) {
        size_t least = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2; child++)
            if (child < count && earlier(&heap[2 * child], &heap[2 * least]))
                least = child;
        if (least == at)
            return;
        swap(&heap[2 * at], &heap[2 * least]);
        at = least;
    }
}

/* The candidate still stands: nothing was merged into either row since. */
static bool stands(const Piece *piece, uint32_t merge, uint32_t place) {
    const uint32_t right = piece->next[place];
    return piece->rows[place] != NO_ROW && right < piece->count &&
           cr_merge_part(piece->tokenizer, merge, 0) == piece->rows[place] &&
           cr_merge_part(piece->tokenizer, merge, 1) == piece->rows[right];
}

size_t cr_merge_all(
    const Tokenizer *tokenizer, uint32_t *rows, size_t count, uint32_t *scratch) {
    /* n - 1 candidates at first; each of at most n - 1 merges uses one up and adds at most two:
     * fewer than 2 n at any time, which with the links takes the 6 n numbers of scratch. */
    Piece piece = {tokenizer, rows, scratch, scratch + count, scratch + 2 * count, 0, count};
    for (size_t i = 0; i < count; i++) {
        piece.next[i] = (uint32_t)i + 1;
        piece.before[i] = i == 0 ? NO_ROW : (uint32_t)i - 1;
    }
    for (size_t i = 0; i + 1 < count; i++)
        offer(&piece, (uint32_t)i);
    while (piece.heap_count > 0) {
        const uint32_t merge = piece.heap[0], place = piece.heap[1];
        drop_first(&piece);
        if (!stands(&piece, merge, place))
            continue;
        const uint32_t right = piece.next[place];
        rows[place] = cr_merge_part(tokenizer, merge, 2);
        rows[right] = NO_ROW;
        piece.next[place] = piece.next[right];
        if (piece.next[place] < count)
            piece.before[piece.next[place]] = place;
        if (piece.before[place] != NO_ROW)
            offer(&piece, piece.before[place]);
        offer(&piece, place);
    }
    size_t left = 0;
    for (size_t i = 0; i < count; i++)
        if (rows[i] != NO_ROW)
            rows[left++] = rows[i];
    return left;
}
