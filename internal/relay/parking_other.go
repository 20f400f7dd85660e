//go:build !linux

package relay

import "time"

// recordQueue would read on from TLS.
type recordQueue struct{}

func (*recordQueue) readOn(_ Conn, _ []byte, n int, _ *lull) (int, error) { return n, nil }

// parkingLot is where directions would wait without a goroutine.
type parkingLot struct{}

func (*parkingLot) open(_, _ Conn, _ time.Duration)      {}
func (*parkingLot) watch(Direction) lull                 { return lull{} }
func (*parkingLot) records(Direction, Conn) *recordQueue { return nil }
func (*parkingLot) park(*goroutines, Direction) bool     { return false }
func (*parkingLot) readMore(Direction, Conn, []byte) int { return 0 }
func (*parkingLot) leave()                               {}
