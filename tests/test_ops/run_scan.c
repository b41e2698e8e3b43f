/* run_scan forward|backward FILE: runs the scan of a file for a processor that is not this one's, and writes it back.
 *
 * The file: offset of the scan_args, number of pointers, the offset of each pointer; then memory, in which pointers are
 * offsets into the file, 0 being null.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scan.h"

int main(int argc, char **argv) {
    FILE *file = argc == 3 ? fopen(argv[2], "r+b") : NULL;
    if (!file || fseek(file, 0, SEEK_END)) return 2;
    long size = ftell(file);
    char *memory = malloc((size_t)size);
    rewind(file);
    if (!memory || fread(memory, 1, (size_t)size, file) != (size_t)size) return 2;
    const int64_t *header = (const int64_t *)memory;
    for (int64_t i = 0; i < header[1]; i++) {
        int64_t *pointer = (int64_t *)(memory + header[2 + i]);
        if (*pointer) *pointer += (int64_t)(intptr_t)memory;
    }
    const scan_args *args = (const scan_args *)(memory + header[0]);
    int failed = strcmp(argv[1], "forward") ? scan_backward(args) : scan_forward(args);
    rewind(file);
    return failed || fwrite(memory, 1, (size_t)size, file) != (size_t)size || fclose(file);
}
