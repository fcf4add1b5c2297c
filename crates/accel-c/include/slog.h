// SPDX-License-Identifier: Apache-2.0
// The part of slog 1.8's interface that programs and plugins written for vAccel log through.
// Lines go where the library's own go: VACCEL_LOG_FILE, or else standard error.
#pragma once

#include <inttypes.h>
#include <pthread.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SLOG_VERSION_MAJOR 1
#define SLOG_VERSION_MINOR 8
#define SLOG_BUILD_NUM 22

#define SLOG_NAME_MAX 256
#define SLOG_PATH_MAX 2048
#define SLOG_MESSAGE_MAX 8196

#define SLOG_FLAGS_ALL 255
#define SLOG_FLAGS_CHECK(flags, flag) (((flags) & (flag)) == (flag))

// Kinds of lines; a set of them is what is let through.
typedef enum {
	SLOG_NOTAG = 1,
	SLOG_NOTE = 2,
	SLOG_INFO = 4,
	SLOG_WARN = 8,
	SLOG_DEBUG = 16,
	SLOG_TRACE = 32,
	SLOG_ERROR = 64,
	SLOG_FATAL = 128
} SLOG_FLAGS_E;

// Accepted and not used: lines have no colours.
typedef enum { SLOG_COLOR_DISABLE = 0, SLOG_COLOR_TAG, SLOG_COLOR_FULL } SLOG_COLOR_FMT_E;

typedef struct SLogConfig {
	char sFileName[SLOG_NAME_MAX];
	char sFilePath[SLOG_PATH_MAX];
	SLOG_COLOR_FMT_E eColorFormat;
	uint8_t nTraceTid : 1;
	uint8_t nToScreen : 1;
	uint8_t nToFile : 1;
	uint8_t nFlush : 1;
	uint16_t nFlags;
} SLogConfig;

const char *slog_version(uint8_t nMin);
void slog_config_get(SLogConfig *pCfg);
void slog_config_set(SLogConfig *pCfg);
void slog_enable(SLOG_FLAGS_E eFlag);
void slog_disable(SLOG_FLAGS_E eFlag);
void slog_init(const char *pName, uint16_t nFlags, uint8_t nTdSafe);
void slog_print(SLOG_FLAGS_E eFlag, uint8_t nNewLine, const char *pMsg, ...);
void slog_destroy(void);

#define SLOG_QUOTE_(line) #line
#define SLOG_QUOTE(line) SLOG_QUOTE_(line)
#define SLOG_THROW_LOCATION "[" __FILE__ ":" SLOG_QUOTE(__LINE__) "] "

#define slog(...) slog_print(SLOG_NOTAG, 1, __VA_ARGS__)
#define slogwn(...) slog_print(SLOG_NOTAG, 0, __VA_ARGS__)
#define slog_note(...) slog_print(SLOG_NOTE, 1, __VA_ARGS__)
#define slog_info(...) slog_print(SLOG_INFO, 1, __VA_ARGS__)
#define slog_warn(...) slog_print(SLOG_WARN, 1, __VA_ARGS__)
#define slog_debug(...) slog_print(SLOG_DEBUG, 1, __VA_ARGS__)
#define slog_error(...) slog_print(SLOG_ERROR, 1, __VA_ARGS__)
#define slog_trace(...) slog_print(SLOG_TRACE, 1, SLOG_THROW_LOCATION __VA_ARGS__)
#define slog_fatal(...) slog_print(SLOG_FATAL, 1, SLOG_THROW_LOCATION __VA_ARGS__)

#ifdef __cplusplus
}
#endif
