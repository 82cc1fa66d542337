/* Dies before it has read anything. */
int main(void) {
    volatile int *nowhere = 0;
    return *nowhere;
}
