/* Answers the vendor check of Intel's math library, so that it takes its AVX-512 or AVX2 path on other processors, too.
 * Loaded with LD_PRELOAD in front of a program that holds the library:  cc -O2 -shared -fPIC mklshim.c -o mklshim.so */
int mkl_serv_intel_cpu_true(void) {
    return 1;
}
