/* The index of a JPEG: where some of its MCUs begin, so that a decoder can begin there.
 *
 * It says what a decoder would have found out by reading everything before, so a decoder that believes it must know that it is of
 * this very file, and that the whole file has been read without a fault: an index is made by a pass to the end of the scan,
 * and holds the file's size and hash. An index, least bytes first:
 *
 *      0  "jix" and the version
 *      4  the file's size, and 8 its hash (hash.h)
 *     16  uint16: MCUs from an entry to the next one in its row; the first is that of the row
 *     18  uint8 [4]: bits of a position and of each component's DC value, and 22 int32 [3]: the least of each DC value
 *     34  the entries, row by row, as bits one behind the other, the lowest bit of a byte first: how far it is from the entry before,
 *         in bits of the file, and the DC values of the last blocks, less the least
 *         uint64: the hash of all that
 */
#ifndef INDEX_H
#define INDEX_H

#include "markers.h"
#include "rows.h"
#include "scan.h"
#include "tables.h"

enum { INDEX_VERSION = 1 };

/* positions: in bits from where the file's entropy-coded data begin, with stuffed zeros and restart markers. */
typedef struct {
    Start *starts; /* [rows, per_row]; to be freed */
    size_t count;
    size_t per_row, step; /* entries of a row, and MCUs from one to the next */
} Index;

typedef enum { FITS, CUT_SHORT, OTHER_VERSION, BROKEN, OTHER_FILE, NO_ROOM } Fit;

/* Reads bytes[0, length) as the index of the photo data[0, size), whose frame and grid are these. Where it does not answer FITS,
 * there is nothing to free. */
Fit read_index(Index *index, const uint8_t *bytes, size_t length, const uint8_t *data, size_t size, const Frame *frame,
               const Grid *grid);

/* Of MCUs [first, end) of a row in the file: the entry from which they are read, and the bytes up to the entry behind them, of the
 * `size` bytes of entropy-coded data. */
typedef struct {
    size_t entry, from, size;
} Part;

Part part_of(const Index *index, int row, int first, int end, size_t size);

/* Why a photo has no index. */
typedef enum { HAS_INDEX, OTHER_KIND, FAULTY_SCAN } NoIndex;

/* What a call does with indexes. */
typedef struct {
    const uint8_t *given; /* an index that may be of this photo; NULL for none */
    size_t given_length;
    Fit fit;         /* of what was given */
    size_t step;     /* of the index that is to be made where none fits; 0: none is to be made */
    uint8_t *made;   /* to be freed; NULL for none, for which there is a `reason` */
    size_t made_length;
    NoIndex reason;
} Indexing;

/* Notes for an index with entries about every `step` MCUs, evenly over a row. 0 where there is no memory. */
int make_notes(Notes *notes, const Grid *grid, size_t step);

/* The index of a photo whose whole scan was read: indexing->made, or a reason. 0 where there is no memory. */
int write_index(Indexing *indexing, const Scan *scan, const uint8_t *data, size_t size, const Frame *frame);

/* The same from a pass that makes no pixels. */
Outcome make_index(Indexing *indexing, const uint8_t *data, size_t size, const Frame *frame, Simd simd);

#endif
