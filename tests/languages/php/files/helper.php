<?php
function greeting()
{
    return 'from helper';
}
