. ./helper.sh

greeting
