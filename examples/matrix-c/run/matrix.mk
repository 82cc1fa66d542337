# Named so that no file of a hand-in is taken in its place, as a GNUmakefile would be.
matrix: $(wildcard *.c)
	gcc -std=c11 -Wall -Wextra -O1 -o $@ $^
