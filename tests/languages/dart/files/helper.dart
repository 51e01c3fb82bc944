String greeting() => 'from helper';
