/* The compact stream of xbc (export format binary, version 1).  Every byte is described in docs/exports.md.
 * All numbers of the header are little-endian.  No allocation, no dependency: give it bytes, get writes. */
#ifndef XBC_STREAM_H
#define XBC_STREAM_H

#include <stddef.h>
#include <stdint.h>

#define XBC_STREAM_VERSION 1
#define XBC_HEADER_BYTES 68
#define XBC_FAULTY_BYTES 9
enum { XBC_EVERY = 0, XBC_FIRST_ONLY = 1, XBC_LATER_ONLY = 2 }; /* phases of a write */

typedef struct {
    uint32_t crossbars, loads, faulty;
    uint16_t rows, columns;
    uint8_t bits_per_cell, whole;
    uint64_t writes;
    uint8_t program_sha256[32];
} xbc_header;

typedef struct { /* one load; next_write gives its writes, phase by phase, cells ascending */
    uint32_t crossbar, step, crc_first, crc_steady, count[3];
    uint8_t verify_mode, rice[3];
    const uint8_t *bytes;
    size_t bit, end;
    int phase, level_bits;
    uint32_t left;
    int64_t cell;
} xbc_load;

typedef struct {
    uint32_t cell; /* row * columns + column */
    uint8_t level, phase, verify;
} xbc_write;

static uint64_t xbc_little(const uint8_t *p, int n) {
    uint64_t v = 0;
    while (n--) v = v << 8 | p[n];
    return v;
}

/* Returns 0, or -1 when the bytes are no header of this version. */
static int xbc_read_header(const uint8_t *p, size_t size, xbc_header *h) {
    if (size < XBC_HEADER_BYTES || p[0] != 'X' || p[1] != 'B' || p[2] != 'C' || p[3] != 'S') return -1;
    if (xbc_little(p + 4, 2) != XBC_STREAM_VERSION || xbc_little(p + 6, 2) != XBC_HEADER_BYTES) return -1;
    h->crossbars = (uint32_t)xbc_little(p + 8, 4);
    h->rows = (uint16_t)xbc_little(p + 12, 2);
    h->columns = (uint16_t)xbc_little(p + 14, 2);
    h->bits_per_cell = p[16];
    h->whole = p[17];
    h->loads = (uint32_t)xbc_little(p + 20, 4);
    h->writes = xbc_little(p + 24, 8);
    for (int i = 0; i < 32; i++) h->program_sha256[i] = p[32 + i];
    h->faulty = (uint32_t)xbc_little(p + 64, 4);
    return h->rows && h->columns && h->crossbars && h->bits_per_cell >= 1 && h->bits_per_cell <= 4 ? 0 : -1;
}

static int xbc_varint(const uint8_t *p, size_t end, size_t *at, uint32_t *value) {
    uint64_t v = 0;
    for (int shift = 0; *at < end && shift < 35; shift += 7) {
        uint8_t byte = p[(*at)++];
        v |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) { *value = (uint32_t)v; return 0; }
    }
    return -1;
}

/* Reads the load record at byte *at of p[0..size) and moves *at behind it.  Returns 0, or -1 when damaged. */
static int xbc_read_load(const uint8_t *p, size_t size, size_t *at, const xbc_header *h, xbc_load *load) {
    uint32_t bytes;
    if (xbc_varint(p, size, at, &bytes) || bytes < 1 || bytes > size - *at) return -1;
    size_t i = *at, end = *at + bytes;
    uint8_t flags = p[i++];
    *at = end;
    if (xbc_varint(p, end, &i, &load->crossbar) || load->crossbar >= h->crossbars) return -1;
    if (xbc_varint(p, end, &i, &load->step) || end - i < (flags & 8 ? 8u : 4u)) return -1;
    load->crc_first = load->crc_steady = (uint32_t)xbc_little(p + i, 4);
    i += 4;
    if (flags & 8) { load->crc_steady = (uint32_t)xbc_little(p + i, 4); i += 4; }
    for (int phase = 0; phase < 3; phase++) {
        load->count[phase] = load->rice[phase] = 0;
        if (!(flags & 1 << phase)) continue;
        if (xbc_varint(p, end, &i, &load->count[phase]) || i >= end) return -1;
        if ((load->rice[phase] = p[i++]) > 31) return -1;
    }
    load->verify_mode = flags >> 4 & 3;
    load->bytes = p;
    load->bit = i * 8;
    load->end = end * 8;
    load->phase = -1;
    load->left = 0;
    load->level_bits = h->bits_per_cell;
    return 0;
}

static uint32_t xbc_bits(xbc_load *load, int n) {
    uint32_t v = 0;
    for (; n--; load->bit++) v = v << 1 | (load->bytes[load->bit >> 3] >> (7 - (load->bit & 7)) & 1);
    return v;
}

/* The next write of a load.  Returns 1, 0 when there is none, -1 when damaged. */
static int xbc_next_write(xbc_load *load, const xbc_header *h, xbc_write *write) {
    while (!load->left) {
        if (++load->phase > 2) return 0;
        load->left = load->count[load->phase];
        load->cell = -1;
    }
    uint64_t gap = 0;
    int k = load->rice[load->phase];
    while (load->bit < load->end && xbc_bits(load, 1)) gap++;
    if (load->bit + k + load->level_bits + (load->verify_mode == 2) > load->end) return -1;
    load->cell += 1 + (int64_t)(gap << k | xbc_bits(load, k));
    if (load->cell >= (int64_t)h->rows * h->columns) return -1;
    write->cell = (uint32_t)load->cell;
    write->level = (uint8_t)xbc_bits(load, load->level_bits);
    write->phase = (uint8_t)load->phase;
    write->verify = load->verify_mode == 2 ? (uint8_t)xbc_bits(load, 1) : load->verify_mode;
    load->left--;
    return 1;
}
#endif
