<?php
echo "unreached"
$broken;
