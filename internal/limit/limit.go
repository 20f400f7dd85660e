// Package limit decides how many handshakes an upstream gets at a time, who of those
// that wait is next, and when those that cannot wait should come again.
//
// It knows counts and times only, neither upstreams nor requests. It starts no goroutine,
// has no lock and no clock: times are passed in, and whoever calls holds a lock.
package limit
