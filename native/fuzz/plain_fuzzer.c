/* What libFuzzer does, less its guidance, where there is no clang: plain_fuzzer SECONDS SEED FILES… changes each file in a few
 * places, in turn, and hands it on. The file that it stops at lies in ./plain_fuzzer.jpg. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROOM = 4096 }; /* bytes that a file may grow by */

static uint64_t state;

static size_t draw(size_t below) { /* xorshift64* */
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return below ? (size_t)(state * 2685821657736338717u >> 33) % below : 0;
}

static uint8_t draw_byte(void) {
    static const uint8_t special[] = {0, 1, 2, 3, 0x11, 0x7F, 0x80, 0xC4, 0xD0, 0xD1, 0xD7, 0xD9, 0xDA, 0xDD, 0xFE, 0xFF};
    return draw(2) ? special[draw(sizeof special)] : (uint8_t)draw(256);
}

/* One change of data[0, size), which may grow by 64 bytes; answers the new size. */
static size_t change(uint8_t *data, size_t size) {
    size_t from = draw(4) ? draw(size) : draw(size < 700 ? size : 700), length = 1 + draw(draw(4) ? 4 : 64);
    if (length > size - from) length = size - from;
    switch (draw(5)) {
        case 0:
            data[from] ^= (uint8_t)(1 << draw(8));
            return size;
        case 1:
            memset(data + from, draw_byte(), length);
            return size;
        case 2: /* cut out */
            memmove(data + from, data + from + length, size - from - length);
            return size - length;
        case 3: /* doubled */
            memmove(data + from + length, data + from, size - from);
            return size + length;
        default:
            data[from] = draw_byte();
            return size;
    }
}

static void keep(const uint8_t *data, size_t size) {
    FILE *file = fopen("plain_fuzzer.jpg", "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file)) exit(2);
}

static size_t read_file(const char *path, uint8_t **data) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) exit(2);
    size_t size = (size_t)ftell(file);
    rewind(file);
    *data = malloc(size + ROOM);
    if (!*data || fread(*data, 1, size, file) != size) exit(2);
    fclose(file);
    return size;
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    time_t end = time(NULL) + atol(argv[1]);
    unsigned long count = 0;
    state = strtoul(argv[2], NULL, 10) * 2 + 1;
    while (time(NULL) < end)
        for (int i = 3; i < argc && time(NULL) < end; i++) {
            uint8_t *seed, *changed;
            size_t size = read_file(argv[i], &seed);
            for (int variant = 0; variant < 50; variant++, count++) {
                size_t now = size;
                size_t changes = variant ? 1 + draw(3) : 0;
                changed = malloc(size + ROOM);
                if (!changed) return 2;
                memcpy(changed, seed, size);
                for (; changes && now > 1; changes--) now = change(changed, now);
                changed = realloc(changed, now ? now : 1); /* a read past the end is found */
                if (!changed) return 2;
                keep(changed, now);
                LLVMFuzzerTestOneInput(changed, now);
                free(changed);
            }
            free(seed);
        }
    printf("%lu files\n", count);
    return remove("plain_fuzzer.jpg");
}
