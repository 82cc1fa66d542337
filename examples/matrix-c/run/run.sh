#!/bin/sh
# Step "run": sees the hand-in and none of the answers. Compiles it, runs it once for each input, keeps what it prints.
#
#   what the compiler says -> out/build.txt, and the exit status of make in out/build.status
#   inputs/CASE.txt        -> out/CASE.txt, and the exit status in out/CASE.status
#
# Nothing here guards anything: the sandbox's limits hold whatever the program does, and the program may do to out/
# what it likes, for it can only put its own answers there.

mkdir -p out
make -s -f matrix.mk >out/build.txt 2>&1
status=$?
echo $status >out/build.status
cat out/build.txt
[ $status -eq 0 ] || exit 0 # graded: a program that does not compile is an answer, and a wrong one

mkfifo printed
for input in inputs/*.txt; do
    case=${input#inputs/}
    case=${case%.txt}
    echo "--- $case"
    # It is also the output of this step: to be read in the logs, and for the output limit to end a flood. It is waited
    # for by what is there before the program starts: a fork bomb leaves no room for more.
    tee "out/$case.txt" <printed &
    ./matrix <"$input" >printed
    status=$?
    wait
    echo $status >"out/$case.status"
    if [ $status -eq 137 ]; then
        # Most likely the kernel, for its memory. End as it did, so that the outcome says so and not "graded".
        kill -KILL $$
    fi
done
