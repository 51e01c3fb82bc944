if true; then echo "unreached"
