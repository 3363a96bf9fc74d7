/* JFIF 1.02: R = Y + 1.402 Cr, G = Y - 0.34414 Cb - 0.71414 Cr, B = Y + 1.772 Cb, with Cb and Cr less 128. What is added
 * to Y is rounded first: weights with 16 fractional bits, halves up. */
#include "color.h"

#include <string.h>

enum {
    RED = 91881,        /* 1.402 * 2**16, rounded */
    BLUE = 116130,      /* 1.772 */
    GREEN_BLUE = 22554, /* 0.34414 */
    GREEN_RED = 46802,  /* 0.71414 */
    HALF = 1 << 15,
    ONE = 1 << 16
};

static inline uint32_t clamp(int value) { return (uint32_t)(value < 0 ? 0 : value > 255 ? 255 : value); }

/* One word a pixel: compilers make vectors of that. */
static void ycc_to_rgbx_scalar(const uint8_t *restrict y, const uint8_t *restrict cb, const uint8_t *restrict cr, int count,
                               uint8_t *restrict out) {
    for (int i = 0; i < count; i++) {
        int blue = cb[i] - 128, red = cr[i] - 128;
        uint32_t r = clamp(y[i] + ((RED * red + HALF) >> 16));
        uint32_t g = clamp(y[i] + ((-GREEN_BLUE * blue - GREEN_RED * red + HALF) >> 16));
        uint32_t b = clamp(y[i] + ((BLUE * blue + HALF) >> 16));
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        uint32_t pixel = r | g << 8 | b << 16;
#else
        uint32_t pixel = r << 24 | g << 16 | b << 8;
#endif
        memcpy(out + 4 * i, &pixel, sizeof pixel);
    }
}

void grey_to_rgbx(const uint8_t *y, int count, uint8_t *out) {
    for (int i = 0; i < count; i++, out += 4) {
        out[0] = out[1] = out[2] = y[i];
        out[3] = 255;
    }
}

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline, target("avx2")))

INLINE __m256i words(const uint8_t *bytes) { return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)bytes)); }

/* (weight * chroma + HALF) >> 16 in 16 bits: pmulhw halves by 2**16 and rounds down, so that of twice the chroma it leaves one
 * bit to round by; floor((floor(a / 2**15) + 1) / 2) = floor((a + 2**15) / 2**16). */
INLINE __m256i rounded(__m256i chroma, int weight) {
    __m256i doubled = _mm256_add_epi16(chroma, chroma);
    __m256i product = _mm256_mulhi_epi16(doubled, _mm256_set1_epi16((short)weight));
    return _mm256_srai_epi16(_mm256_add_epi16(product, _mm256_set1_epi16(1)), 1);
}

/* pmaddwd's weights must have 16 bits: GREEN_RED is ONE less a part of one, and red is subtracted once more. */
INLINE __m256i green(__m256i blue, __m256i red) {
    const __m256i half = _mm256_set1_epi32(HALF);
    const __m256i by = _mm256_set1_epi32((int)((uint32_t)(uint16_t)-GREEN_BLUE | (uint32_t)(ONE - GREEN_RED) << 16));
    __m256i low = _mm256_madd_epi16(_mm256_unpacklo_epi16(blue, red), by);
    __m256i high = _mm256_madd_epi16(_mm256_unpackhi_epi16(blue, red), by);
    low = _mm256_srai_epi32(_mm256_add_epi32(low, half), 16);
    high = _mm256_srai_epi32(_mm256_add_epi32(high, half), 16);
    return _mm256_sub_epi16(_mm256_packs_epi32(low, high), red);
}

/* 16 pixels a step. */
TARGET static void ycc_to_rgbx_avx2(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, int count, uint8_t *out) {
    const __m256i centre = _mm256_set1_epi16(128), opaque = _mm256_set1_epi16(255);
    for (int i = 0; i < count; i += 16, out += 64) {
        __m256i luma = words(y + i);
        __m256i blue = _mm256_sub_epi16(words(cb + i), centre), red = _mm256_sub_epi16(words(cr + i), centre);
        __m256i r = _mm256_add_epi16(luma, _mm256_add_epi16(red, rounded(red, RED - ONE)));
        __m256i g = _mm256_add_epi16(luma, green(blue, red));
        __m256i b = _mm256_add_epi16(luma, _mm256_add_epi16(_mm256_add_epi16(blue, blue), rounded(blue, BLUE - 2 * ONE)));
        /* In each half: 8 of r, 8 of b, and 8 of g, 8 of 255; then r, g in turn, and b, 255. */
        __m256i rb = _mm256_packus_epi16(r, b), gx = _mm256_packus_epi16(g, opaque);
        __m256i rg = _mm256_unpacklo_epi8(rb, gx), bx = _mm256_unpackhi_epi8(rb, gx);
        __m256i first = _mm256_unpacklo_epi16(rg, bx), second = _mm256_unpackhi_epi16(rg, bx);
        _mm256_storeu_si256((__m256i *)out, _mm256_permute2x128_si256(first, second, 0x20));
        _mm256_storeu_si256((__m256i *)(out + 32), _mm256_permute2x128_si256(first, second, 0x31));
    }
}

#else
#define ycc_to_rgbx_avx2 ycc_to_rgbx_scalar
#endif

void ycc_to_rgbx(Simd simd, const uint8_t *y, const uint8_t *cb, const uint8_t *cr, int count, uint8_t *out) {
    if (simd == AVX2)
        ycc_to_rgbx_avx2(y, cb, cr, count, out);
    else
        ycc_to_rgbx_scalar(y, cb, cr, count, out);
}
