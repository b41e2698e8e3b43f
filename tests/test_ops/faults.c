/* faults WHICH: does what the checkers of sanitize.py are there to find, so that their silence means something. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile int zero;

int main(int argc, char **argv) {
    const char *which = argc > 1 ? argv[1] : "";
    volatile int *block = malloc(4 * sizeof(int));
    int sum = 0;
    if (!strcmp(which, "overflow")) block[4 + zero] = 1;
    if (!strcmp(which, "overread")) sum = block[4 + zero];
    if (!strcmp(which, "uninitialised") && block[1]) puts("");
    if (!strcmp(which, "leak")) block = NULL;
    if (!strcmp(which, "arithmetic")) sum = INT_MAX - zero + 1;
    if (!strcmp(which, "race")) {
        int shared = 0;
#pragma omp parallel num_threads(4)
        for (int i = 0; i < 1000; i++) shared++;
        sum = shared;
    }
    free((void *)block);
    return sum == 3;
}
