// Package verify has the tests of the examples, and of the files for GitHub, that
// cannot be run here: each is decoded, as strictly as can be, by its format's own
// Go module. It is a module of its own so that the proxy needs none of those.
//
// Run them with -count=1: the go command does not see changes of files that are
// outside of this module.
package verify
