/* Replays program.xbcs on an array of cells, the first inference and a steady one, and checks the CRC-32 of the
 * crossbar after every load.   cc -O2 -o xbc_replay xbc_replay.c && ./xbc_replay program.xbcs
 * Exit code 0: every load gives the promised state; 1: it does not; 2: the file is damaged. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "xbc_stream.h"

static uint32_t table[256];

static uint32_t crc32(const uint8_t *p, size_t n) {
    uint32_t c = 0xFFFFFFFFu;
    while (n--) c = table[(c ^ *p++) & 255] ^ c >> 8;
    return ~c;
}

static int fail(const char *what) {
    fprintf(stderr, "xbc_replay: %s\n", what);
    return 2;
}

static uint8_t *read_file(const char *name, size_t *size) {
    FILE *file = fopen(name, "rb");
    if (!file || fseek(file, 0, SEEK_END)) return NULL;
    *size = (size_t)ftell(file);
    rewind(file);
    uint8_t *bytes = malloc(*size + 1);
    if (bytes && fread(bytes, 1, *size, file) != *size) bytes = NULL;
    fclose(file);
    return bytes;
}

/* Levels when a steady inference begins: bits_per_cell bits each, a crossbar begins at a byte. */
static void unpack(const uint8_t *p, const xbc_header *h, uint8_t *cells) {
    size_t per = (size_t)h->rows * h->columns, bytes = (per * h->bits_per_cell + 7) / 8;
    for (size_t c = 0; c < h->crossbars; c++)
        for (size_t i = 0; i < per * h->bits_per_cell; i++) {
            uint8_t *cell = &cells[c * per + i / h->bits_per_cell];
            *cell = (uint8_t)(*cell << 1 | (p[c * bytes + i / 8] >> (7 - i % 8) & 1));
        }
}

/* Replays all loads; `skip` is the phase this inference does not do.  Returns an exit code. */
static int run(const uint8_t *p, size_t size, size_t at, const xbc_header *h, uint8_t *cells, int skip) {
    size_t per = (size_t)h->rows * h->columns;
    uint64_t set = 0, reset = 0;
    xbc_load load;
    xbc_write w;
    for (uint32_t i = 0; i < h->loads; i++) {
        int more;
        if (xbc_read_load(p, size, &at, h, &load)) return fail("damaged load");
        uint8_t *bar = cells + load.crossbar * per;
        while ((more = xbc_next_write(&load, h, &w)) == 1) {
            if (w.phase == skip) continue;
            if (w.level > bar[w.cell]) set++;
            else reset++;
            bar[w.cell] = w.level;
        }
        if (more < 0) return fail("damaged write");
        uint32_t wanted = skip == XBC_LATER_ONLY ? load.crc_first : load.crc_steady, found = crc32(bar, per);
        if (found != wanted) {
            printf("FAIL load %u crossbar %u: CRC %08x, promised %08x\n", i, load.crossbar, found, wanted);
            return 1;
        }
    }
    if (at != size) return fail("bytes after the last load");
    printf("PASS %s loads=%u set=%llu reset=%llu\n", skip == XBC_LATER_ONLY ? "first" : "steady", h->loads,
           (unsigned long long)set, (unsigned long long)reset);
    return 0;
}

int main(int argc, char **argv) {
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int k = 0; k < 8; k++) table[i] = table[i] & 1 ? 0xEDB88320u ^ table[i] >> 1 : table[i] >> 1;
    }
    size_t size = 0;
    xbc_header h;
    uint8_t *p = argc == 2 ? read_file(argv[1], &size) : NULL;
    if (!p) return fail("usage: xbc_replay program.xbcs");
    if (xbc_read_header(p, size, &h)) return fail("no stream of this version");
    size_t per = (size_t)h.rows * h.columns, packed = h.crossbars * ((per * h.bits_per_cell + 7) / 8);
    size_t image = XBC_HEADER_BYTES + (size_t)h.faulty * XBC_FAULTY_BYTES, loads = image + packed;
    if (loads > size) return fail("damaged header");
    uint8_t *blank = calloc(h.crossbars, per), *cells = calloc(h.crossbars, per);
    if (!blank || !cells) return fail("out of memory");
    for (uint32_t i = 0; i < h.faulty; i++) {
        const uint8_t *f = p + XBC_HEADER_BYTES + i * XBC_FAULTY_BYTES;
        size_t cell = xbc_little(f, 4) * per + xbc_little(f + 4, 2) * h.columns + xbc_little(f + 6, 2);
        if (cell >= h.crossbars * per) return fail("damaged faulty cell");
        blank[cell] = f[8];
    }
    unpack(p + image, &h, cells);
    int code = run(p, size, loads, &h, blank, XBC_LATER_ONLY);
    return code ? code : run(p, size, loads, &h, cells, XBC_FIRST_ONLY);
}
