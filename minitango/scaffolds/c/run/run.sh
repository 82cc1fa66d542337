# Step "run": compiles the hand-in, runs it on each input, and keeps what it prints.
#
#     inputs/CASE.txt -> out/CASE.txt, and the exit status in out/CASE.status
#
# Nothing here guards anything: the sandbox's limits hold whatever the program does.

mkdir -p out
make CC=gcc sum >out/build.log 2>&1 || {
    cat out/build.log
    exit 0 # that it does not compile is for step "grade" to say
}
for input in inputs/*.txt; do
    case=$(basename "$input" .txt)
    echo "--- $case"
    ./sum <"$input" >"out/$case.txt"
    echo $? >"out/$case.status"
done
