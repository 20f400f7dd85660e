package testbed

// Hostile is text with one of each kind of what moves, colours, hides or
// reorders what stands on a terminal.
const Hostile = "a\x00b\tc\rd\ne\x1b[31mf\x7fg\u0085h\u009b31mi\u202ej\u2066k\u200bl\u2028m"
