//go:build !linux

package relay

import "time"

// parkingLot is where directions would wait without a goroutine.
type parkingLot struct{}

func (*parkingLot) open(_, _ Conn, _ time.Duration)      {}
func (*parkingLot) watch(Direction) lull                 { return lull{} }
func (*parkingLot) park(*goroutines, Direction) bool     { return false }
func (*parkingLot) readMore(Direction, Conn, []byte) int { return 0 }
func (*parkingLot) leave()                               {}
