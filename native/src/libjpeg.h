/* libjpeg-turbo, where its headers were at hand, for files that decoder.h leaves. */
#ifndef LIBJPEG_H
#define LIBJPEG_H

#include "rows.h"

/* As decode_window(). */
Outcome decode_window_libjpeg(const uint8_t *data, size_t size, const Frame *frame, const Window *window, const Taker *taker);

/* Three numbers and two dots, or "" where it is not there. Static. */
const char *libjpeg_version(void);

#endif
