#!/bin/sh
# Builds the hand-in, runs it on each case, and prints Autolab's two lines: feedback in stages, and the scores.
#
#   cases/NAME.args      the arguments, one a line
#   cases/NAME.expected  what has to be printed
#
# 20 points for each case, and 20 for a build without a warning.

CPU_SECONDS=1
SECONDS_EACH=3
KIB=200000
POINTS=20

# What is said of one thing is left in $said: a fork bomb that was just killed may leave no process for a $(...).
passed() { said="\"$1\": {\"passed\": true}"; }
failed() { said="\"$1\": {\"passed\": false, \"hint\": \"$2\"}"; }

# Ends with the program's exit status. What it prints goes to NAME.out, of at most 64 KiB; what goes on for too long is
# killed, with all that it started.
run() {
    (
        ulimit -t $CPU_SECONDS
        ulimit -f 128
        ulimit -v $KIB
        set -f
        IFS='
'
        # shellcheck disable=SC2046 # one word a line
        exec timeout -s KILL "$SECONDS_EACH" ./hello $(cat "cases/$1.args") >"$1.out"
    ) 2>/dev/null </dev/null
}

correctness=0 style=0 build='' tests='' killed=''

if make -s hello >build.log 2>&1; then
    passed compiles
    build=$said
    if [ -s build.log ]; then
        failed 'no warnings' 'the output above has them'
    else
        style=20
        passed 'no warnings'
    fi
    build="$build, $said"
else
    failed compiles 'the output above says why'
    build=$said
fi
cat build.log

for file in cases/*.expected; do
    case=${file#cases/}
    case=${case%.expected}
    if [ ! -x hello ]; then
        failed "$case" 'there is no program to run'
    elif [ -n "$killed" ]; then
        failed "$case" 'not run, as one before it was killed'
    else
        run "$case"
        status=$?
        if [ "$status" -eq 137 ]; then
            killed=yes
            failed "$case" 'it was killed, as it took too long'
        elif [ "$status" -gt 128 ]; then
            failed "$case" "it ended by signal $((status - 128))"
        elif ! cmp -s "$file" "$case.out"; then
            failed "$case" 'it prints something else'
        elif [ "$status" -ne 0 ]; then
            failed "$case" "it ends with the exit status $status"
        else
            correctness=$((correctness + POINTS))
            passed "$case"
        fi
    fi
    tests="$tests${tests:+, }$said"
done

echo "{\"_presentation\": \"semantic\", \"stages\": [\"Build\", \"Test\"], \"Build\": {$build}, \"Test\": {$tests}}"
echo "{\"scores\": {\"Correctness\": $correctness, \"Style\": $style}, \"scoreboard\": [$((correctness + style))]}"
