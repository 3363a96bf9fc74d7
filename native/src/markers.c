/* The markers of ITU-T T.81, Annex B, as strictly as no valid photo needs.
 *
 * Pillow reads the segments itself before libjpeg does, and refuses files for reasons of its own: a short JFIF or ICC
 * segment, a Photoshop resource that runs over its end, Exif values of the wrong type. What is accepted here must be
 * sure to be accepted there; what is unusual is left to it. */
#include "markers.h"

#include <string.h>

enum {
    SOF0 = 0xC0,
    SOF1 = 0xC1,
    DHT = 0xC4,
    RST0 = 0xD0,
    RST7 = 0xD7,
    SOI = 0xD8,
    EOI = 0xD9,
    SOS = 0xDA,
    DQT = 0xDB,
    DRI = 0xDD,
    APP0 = 0xE0,
    APP1 = 0xE1,
    APP2 = 0xE2,
    APP13 = 0xED,
    APP14 = 0xEE,
    APP15 = 0xEF,
    COM = 0xFE
};

typedef struct {
    Frame frame;
    int components; /* 0 before the frame header */
    int density;    /* a JFIF segment gives pixels per inch or cm; without it Pillow parses Exif */
    int exif;
} Header;

static uint32_t be16(const uint8_t *bytes) { return (uint32_t)bytes[0] << 8 | bytes[1]; }

static uint32_t be32(const uint8_t *bytes) { return be16(bytes) << 16 | be16(bytes + 2); }

static int starts_with(const uint8_t *body, size_t size, const char *name, size_t length) {
    return size >= length && memcmp(body, name, length) == 0;
}
#define STARTS_WITH(body, size, name) starts_with(body, size, name, sizeof(name) - 1)

static int read_start_of_frame(Header *header, const uint8_t *body, size_t size) {
    if (header->components || size < 6 || body[0] != 8) return 0;
    header->frame.height = be16(body + 1);
    header->frame.width = be16(body + 3);
    header->components = body[5];
    if (size != 6 + 3 * (size_t)header->components || !header->frame.height || !header->frame.width) return 0;
    if (header->frame.height > MAX_PIXELS / header->frame.width) return 0;
    if (header->components == 1) return body[7] == 0x11;
    /* luma 1x1, 2x1, 1x2 or 2x2 of the chroma's pixels: 4:4:4, 4:2:2, 4:4:0, 4:2:0 */
    return header->components == 3 && (body[7] >> 4) - 1u < 2 && (body[7] & 15) - 1u < 2 && body[10] == 0x11 &&
           body[13] == 0x11;
}

static int read_quantization(const uint8_t *body, size_t size) {
    while (size) {
        size_t length = body[0] >> 4 ? 129 : 65;
        if (body[0] >> 4 > 1 || size < length) return 0;
        body += length;
        size -= length;
    }
    return 1;
}

/* The image resource blocks of Adobe Photoshop's file format: "8BIM", code, Pascal string, size, data; even offsets. */
static int read_photoshop(const uint8_t *body, size_t size) {
    size_t at = 14;
    while (at + 4 <= size && memcmp(body + at, "8BIM", 4) == 0) {
        if (at + 7 > size) return 0;
        uint32_t code = be16(body + at + 4);
        size_t data = at + 7 + body[at + 6];
        data += (data & 1) + 4;
        if (data > size) return 0;
        uint32_t length = be32(body + data - 4);
        if (length > size - data || (code == 0x03ED && length < 16)) return 0;
        at = data + length + (length & 1);
    }
    return 1;
}

static int read_segment(Header *header, int marker, const uint8_t *body, size_t size) {
    switch (marker) {
        case SOF0:
        case SOF1:
            return read_start_of_frame(header, body, size);
        case DQT:
            return read_quantization(body, size);
        case DHT:
        case DRI:
        case COM:
            return 1;
        case APP0:
            if (!STARTS_WITH(body, size, "JFIF")) return 1;
            if (size < 14) return 0;
            header->density |= body[7] == 1 || body[7] == 2;
            return 1;
        case APP1:
            header->exif |= STARTS_WITH(body, size, "Exif\0\0");
            return 1;
        case APP2: /* MPF: several pictures in one file */
            return !STARTS_WITH(body, size, "MPF\0") && (!STARTS_WITH(body, size, "ICC_PROFILE\0") || size >= 14);
        case APP13:
            return !STARTS_WITH(body, size, "Photoshop 3.0\0") || read_photoshop(body, size);
        case APP14:
            return !STARTS_WITH(body, size, "Adobe") || size >= 12;
        default:
            return marker > APP2 && marker <= APP15;
    }
}

int read_frame(const uint8_t *data, size_t size, Frame *frame) {
    Header header = {0};
    if (size < 4 || data[0] != 0xFF || data[1] != SOI) return 0;
    for (size_t at = 2; size - at >= 4;) {
        int marker = data[at + 1];
        size_t length = be16(data + at + 2); /* counts its own two bytes */
        if (data[at] != 0xFF || length < 2 || length > size - at - 2) return 0;
        const uint8_t *body = data + at + 4;
        if (marker == SOS) {
            if (!header.components || length < 3 || body[0] != header.components) return 0;
            *frame = header.frame;
            frame->scan = at + 2 + length;
            return length == 6 + 2 * (size_t)header.components && (!header.exif || header.density);
        }
        if (!read_segment(&header, marker, body, length - 2)) return 0;
        at += 2 + length;
    }
    return 0;
}

int ends_with_eoi(const uint8_t *data, size_t size) {
    const uint8_t *end = data + size;
    while (data < end && (data = memchr(data, 0xFF, (size_t)(end - data))) && ++data < end) {
        if (*data == EOI) return 1;
        if (*data != 0xFF && *data != 0 && (*data < RST0 || *data > RST7)) return 0;
    }
    return 0;
}

/* The place of the first FF FF of data[0, size), or size. A block at a time, which compilers make vectors of. */
static size_t first_fill(const uint8_t *data, size_t size) {
    enum { BLOCK = 2048 };
    size_t at = 0;
    for (; size - at > BLOCK; at += BLOCK) {
        uint8_t found = 0;
        for (size_t i = 0; i < BLOCK; i++) found |= (data[at + i] & data[at + i + 1]) == 0xFF;
        if (found) break;
    }
    while (at + 1 < size && (data[at] & data[at + 1]) != 0xFF) at++;
    return at + 1 < size ? at : size;
}

int has_no_fill(const uint8_t *data, size_t size) {
    size_t fill = first_fill(data, size);
    return fill == size || ends_with_eoi(data, fill);
}
