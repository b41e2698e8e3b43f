/* Classifies an image with a model exported by `export.py --custom-op`, in C, without Python.
 *
 *     cc -I INCLUDE classify.c -L LIB -lonnxruntime -o classify
 *     ./classify model.onnx onnxruntime_ops.so image.f32 HEIGHT WIDTH
 *
 * INCLUDE and LIB are the folders of a release of onnxruntime. image.f32 is an RGB image from 0 to 255 as raw float32
 * values in the order (3, HEIGHT, WIDTH). Prints the index of the class with the largest logit, and this logit.
 */
#include <stdio.h>
#include <stdlib.h>

#include "onnxruntime_c_api.h"

static const OrtApi *ort;

static void check(OrtStatus *status) {
    if (!status) return;
    fprintf(stderr, "%s\n", ort->GetErrorMessage(status));
    exit(1);
}

static float *read_floats(const char *path, size_t count) {
    float *values = malloc(count * sizeof *values);
    FILE *file = fopen(path, "rb");
    if (!values || !file || fread(values, sizeof *values, count, file) != count || fgetc(file) != EOF) {
        fprintf(stderr, "%s must contain %zu float32 values.\n", path, count);
        exit(1);
    }
    fclose(file);
    return values;
}

int main(int argc, char **argv) {
    int64_t height = argc == 6 ? atoll(argv[4]) : 0, width = argc == 6 ? atoll(argv[5]) : 0;
    if (height <= 0 || width <= 0) {
        fprintf(stderr, "usage: %s MODEL OPERATORS IMAGE HEIGHT WIDTH\n", argv[0]);
        return 1;
    }
    ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (!ort) {
        fprintf(stderr, "The program was compiled for a later version of onnxruntime.\n");
        return 1;
    }
    OrtEnv *env;
    OrtSessionOptions *options;
    OrtSession *session;
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "classify", &env));
    check(ort->CreateSessionOptions(&options));
    check(ort->RegisterCustomOpsLibrary_V2(options, argv[2]));
    check(ort->CreateSession(env, argv[1], options, &session));

    size_t count = (size_t)(3 * height * width), classes;
    int64_t shape[] = {1, 3, height, width};
    float *pixels = read_floats(argv[3], count), *logits;
    OrtMemoryInfo *memory;
    OrtValue *image, *output = NULL;
    OrtTensorTypeAndShapeInfo *info;
    OrtAllocator *allocator;
    char *name;
    check(ort->GetAllocatorWithDefaultOptions(&allocator));
    check(ort->SessionGetOutputName(session, 0, allocator, &name));
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    check(ort->CreateTensorWithDataAsOrtValue(memory, pixels, count * sizeof *pixels, shape, 4,
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &image));
    const char *inputs[] = {"images"};
    check(ort->Run(session, NULL, inputs, (const OrtValue *const *)&image, 1, (const char *const *)&name, 1, &output));
    check(ort->GetTensorMutableData(output, (void **)&logits));
    check(ort->GetTensorTypeAndShape(output, &info));
    check(ort->GetTensorShapeElementCount(info, &classes));
    size_t best = 0;
    for (size_t i = 1; i < classes; i++)
        if (logits[i] > logits[best]) best = i;
    printf("class %zu, logit %.6f\n", best, logits[best]);

    check(ort->AllocatorFree(allocator, name));
    ort->ReleaseTensorTypeAndShapeInfo(info);
    ort->ReleaseValue(output);
    ort->ReleaseValue(image);
    ort->ReleaseMemoryInfo(memory);
    ort->ReleaseSession(session);
    ort->ReleaseSessionOptions(options);
    ort->ReleaseEnv(env);
    free(pixels);
    return 0;
}
