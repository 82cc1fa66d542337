/* Does not compile. */
#include <stdio.h>

int main(void) {
    int rows, columns
    scanf("%d %d", &rows, &columns);
    return 0;
}
