/* CUDA's driver on the processor's memory, for tests: what is asked of a stream happens when somebody waits for it, not
 * before, so that a missing wait shows; what leaks is counted; and any call can be made to fail.
 *
 * Errors of 700 and more stick, as on a real device: every call after one fails alike. Recording takes what is asked
 * into a graph instead, whose launch asks for all of it again. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long P;
typedef void (*host_fn)(void *);

enum { OPS_MAX = 65536, NOT_FOUND = 500, UNSUPPORTED_CAPTURE = 900, INVALIDATED = 901 };
typedef struct { void *to; const void *from; size_t size; host_fn call; void *data; } op;
typedef struct { op *ops; int count; } list;

static list stream, recording;
static int capturing, spoilt, sticky, devices = 1;
static long long blocks, bytes, pinned, streams, graphs, contexts, peak;
static char failing[64];
static int fail_after, fail_code;

void fake_fail(const char *call, int after, int code) {
    snprintf(failing, sizeof failing, "%s", call);
    fail_after = after;
    fail_code = code;
}
void fake_devices(int count) { devices = count; }
void fake_reset(void) {
    stream.count = recording.count = capturing = spoilt = sticky = fail_after = 0;
    blocks = bytes = pinned = streams = graphs = contexts = peak = 0;
    devices = 1;
    failing[0] = 0;
}
/* What is still held: blocks, pinned, streams, graphs, contexts, bytes, most bytes ever. */
void fake_held(long long *into) {
    long long all[] = {blocks, pinned, streams, graphs, contexts, bytes, peak};
    memcpy(into, all, sizeof all);
}
int fake_waiting(void) { return stream.count; }
int fake_capturing(void) { return capturing; }

static int check(const char *call) {
    if (sticky) return sticky;
    if (failing[0] && !strcmp(call, failing) && fail_after-- == 0) {
        failing[0] = 0;
        if (fail_code >= 700 && fail_code < 900) sticky = fail_code;
        return fail_code;
    }
    return 0;
}
#define CHECK() do { int code = check(__func__); if (code) return code; } while (0)

static int ask(op one) {
    list *to = capturing ? &recording : &stream;
    if (!to->ops) to->ops = malloc(OPS_MAX * sizeof *to->ops);
    if (to->count == OPS_MAX) return 2;
    to->ops[to->count++] = one;
    return 0;
}
static void work(void) {
    int count = stream.count;
    for (int i = 0; i < count; i++) {
        op one = stream.ops[i];
        if (one.call) one.call(one.data);
        else memmove(one.to, one.from, one.size);
    }
    stream.count = 0;
}

int cuInit(unsigned flags) { CHECK(); return devices ? 0 : 100; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetCount(int *count) { CHECK(); *count = devices; return 0; }
int cuDeviceGet(int *device, int ordinal) { CHECK(); *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "Fake Orin"); return 0; }
int cuDeviceGetAttribute(int *value, int kind, int device) { *value = kind == 75 ? 8 : kind == 76 ? 7 : 1; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { CHECK(); *context = (void *)0x10; contexts++; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { CHECK(); contexts--; return 0; }
int cuCtxSetCurrent(void *context) { CHECK(); return 0; }
int cuCtxGetCurrent(void **context) { *context = contexts ? (void *)0x10 : 0; return 0; }
int cuMemGetInfo_v2(size_t *free, size_t *total) { CHECK(); *total = 1ull << 33; *free = *total - bytes; return 0; }

/* A header before each block remembers its size; TensorRT wants multiples of 256. */
int cuMemAlloc_v2(P *address, size_t size) {
    CHECK();
    char *raw = aligned_alloc(256, (size + 511) / 256 * 256);
    if (!raw) return 2;
    *(size_t *)raw = size;
    memset(raw + 256, 0xEE, size);
    *address = (P)(raw + 256);
    blocks++, bytes += size;
    if (bytes > peak) peak = bytes;
    return 0;
}
int cuMemFree_v2(P address) {
    CHECK();
    work();
    char *raw = (char *)address - 256;
    blocks--, bytes -= *(size_t *)raw;
    memset(raw + 256, 0xDD, *(size_t *)raw);
    free(raw);
    return 0;
}
int cuMemHostAlloc(void **address, size_t size, unsigned flags) {
    CHECK();
    *address = malloc(size);
    pinned += !!*address;
    return *address ? 0 : 2;
}
int cuMemFreeHost(void *address) { CHECK(); work(); free(address); pinned--; return 0; }
int cuMemcpyHtoDAsync_v2(P to, const void *from, size_t size, void *s) {
    CHECK();
    return ask((op){(void *)to, from, size, 0, 0});
}
int cuMemcpyDtoHAsync_v2(void *to, P from, size_t size, void *s) {
    CHECK();
    return ask((op){to, (void *)from, size, 0, 0});
}
int cuMemcpyDtoDAsync_v2(P to, P from, size_t size, void *s) {
    CHECK();
    return ask((op){(void *)to, (void *)from, size, 0, 0});
}
int cuLaunchHostFunc(void *s, host_fn call, void *data) { CHECK(); return ask((op){0, 0, 0, call, data}); }

int cuStreamCreate(void **s, unsigned flags) { CHECK(); *s = malloc(1); streams++; return 0; }
int cuStreamDestroy_v2(void *s) { CHECK(); work(); free(s); streams--; return 0; }
int cuStreamSynchronize(void *s) {
    CHECK();
    if (capturing) { spoilt = 1; return UNSUPPORTED_CAPTURE; }
    work();
    return 0;
}
int cuStreamBeginCapture_v2(void *s, int mode) { CHECK(); capturing = 1; spoilt = recording.count = 0; return 0; }
int cuStreamEndCapture(void *s, list **graph) {
    capturing = 0;
    int code = check(__func__);
    if (code || spoilt) { *graph = 0; return code ? code : INVALIDATED; }
    *graph = malloc(sizeof **graph);
    (*graph)->count = recording.count;
    (*graph)->ops = malloc((recording.count + 1) * sizeof(op));
    memcpy((*graph)->ops, recording.ops, recording.count * sizeof(op));
    graphs++;
    return 0;
}
static list *copied(const list *graph) {
    list *made = malloc(sizeof *made);
    made->count = graph->count;
    made->ops = malloc((graph->count + 1) * sizeof(op));
    memcpy(made->ops, graph->ops, graph->count * sizeof(op));
    graphs++;
    return made;
}
int cuGraphInstantiateWithFlags(list **exec, list *graph, P flags) { CHECK(); *exec = copied(graph); return 0; }
static int let_go(list *graph) { free(graph->ops); free(graph); graphs--; return 0; }
int cuGraphDestroy(list *graph) { CHECK(); return let_go(graph); }
int cuGraphExecDestroy(list *exec) { CHECK(); return let_go(exec); }
int cuGraphLaunch(list *exec, void *s) {
    CHECK();
    for (int i = 0; i < exec->count; i++) { int code = ask(exec->ops[i]); if (code) return code; }
    return 0;
}
int cuGetErrorName(int code, const char **name) { *name = "CUDA_ERROR_FAKE"; return 0; }

int cuGetProcAddress_v2(const char *name, void **found, int version, P flags, int *status) {
    static void *self;
    Dl_info info;
    char longer[160];
    if (!self && dladdr((void *)cuInit, &info)) self = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    const char *endings[] = {"_v2", "", "WithFlags"};
    *found = 0;
    for (int i = 0; i < 3 && !*found; i++) {
        snprintf(longer, sizeof longer, "%s%s", name, endings[i]);
        *found = dlsym(self, longer);
    }
    if (status) *status = *found ? 0 : 1;
    return *found ? 0 : NOT_FOUND;
}
int cuGetProcAddress(const char *name, void **found, int version, P flags) {
    return cuGetProcAddress_v2(name, found, version, flags, 0);
}
