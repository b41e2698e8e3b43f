/* The entry point of the library: registers the operators with a session of onnxruntime. */
#include <stdatomic.h>
#include <stdio.h>

#include "ort_operator.h"

enum { OPERATORS = 4 };

/* The operators as registered with one onnxruntime; a process may contain several. Sessions refer to it, so it is freed
 * when the library is unloaded. */
typedef struct registration registration;
struct registration {
    const OrtApi *api;
    OrtCustomOpDomain *domain;
    operator operators[OPERATORS];
    registration *next;
};

static registration *_Atomic registrations;

static void release(registration *r) {
    if (r->domain) ORT_CALL(r->api, ReleaseCustomOpDomain)(r->domain);
    free(r);
}

__attribute__((destructor)) static void release_all(void) {
    for (registration *r = registrations, *next; r; r = next) {
        next = r->next;
        release(r);
    }
}

static OrtStatus *fill(registration *r) {
    TRY(ORT_CALL(r->api, CreateCustomOpDomain)("mmvmamba", &r->domain));
    for (int i = 0; i < OPERATORS; i++) TRY(ORT_CALL(r->api, CustomOpDomain_Add)(r->domain, &r->operators[i].op));
    return NULL;
}

/* Before 1.25, onnxruntime crashes in the shape inference of a node that lacks an optional input. */
static int infers_shapes(const OrtApiBase *base) {
    int major = 0, minor = 0;
    return sscanf(base->GetVersionString(), "%d.%d", &major, &minor) == 2 && (major > 1 || minor >= 25);
}

static OrtStatus *find_or_create(const OrtApi *api, const OrtApiBase *base, registration **found) {
    for (registration *r = registrations; r; r = r->next)
        if (r->api == api) return *found = r, NULL;
    registration *r = calloc(1, sizeof *r);
    if (!r) return ORT_CALL(api, CreateStatus)(ORT_FAIL, "mmvmamba: not enough memory to register the operators.");
    *r = (registration){.api = api,
                        .operators = {selective_scan_operator(api), conv_silu_operator(api), bias_gelu_operator(api),
                                      add_norm_operator(api)}};
    for (int i = 0; i < OPERATORS && !infers_shapes(base); i++) r->operators[i].op.InferOutputShapeFn = NULL;
    OrtStatus *status = fill(r);
    if (status) {
        release(r);
        return status;
    }
    r->next = registrations;
    while (!atomic_compare_exchange_weak(&registrations, &r->next, r)) {
    }
    return *found = r, NULL;
}

__attribute__((visibility("default"))) OrtStatus *RegisterCustomOps(OrtSessionOptions *options,
                                                                    const OrtApiBase *base) {
    const OrtApi *api = base->GetApi(ORT_API_VERSION);
    if (!api) {
        char message[200];
        snprintf(message, sizeof message, "mmvmamba: the operators need onnxruntime 1.%d or later, this is %s.",
                 ORT_API_VERSION, base->GetVersionString());
        return ORT_CALL(base->GetApi(1), CreateStatus)(ORT_FAIL, message);
    }
    registration *r = NULL;
    TRY(find_or_create(api, base, &r));
    return ORT_CALL(api, AddCustomOpDomain)(options, r->domain);
}
