case_=$1
shift
case $case_ in
echo) cat ;;
args) for arg in "$@"; do echo "[$arg]"; done ;;
exit) exit 3 ;;
stderr) echo "to stdout"; echo "to stderr" >&2 ;;
unicode) echo "žluťoučký 你好 🦀" ;;
output) line=$(printf 'x%.0s' {1..99}); for ((n = 0; n < 10000; n++)); do echo "$line"; done ;;
uncaught) set -u; echo "${corpus_failure?corpus failure}" ;;
memory) hoard=x; while :; do hoard=$hoard$hoard; done ;;
loop) while :; do :; done ;;
threads)
    for index in 1 2 3 4; do
        (sum=0; for n in {1..1000}; do ((sum += n)); done; echo "$sum" > "sum$index") &
    done
    wait
    total=0
    for index in 1 2 3 4; do ((total += $(cat "sum$index"))); done
    echo "$total"
    ;;
missing) cat absent.txt 2>/dev/null || echo missing ;;
workdir) printf written > out.txt; cat out.txt; echo ;;
esac
