package limit

import "time"

// mostKept bounds the memory if one that does not end is overtaken by very many.
const mostKept = 2 * mostLimit

// underWay are the handshakes that count, in the order in which they have begun: a ring
// from the oldest that has not ended. What has ended behind it stays until the oldest goes.
type underWay struct {
	ring  []begun // a power of two
	first uint64  // number of the oldest
	next  uint64  // number of the one that comes
	count int     // of those that have not ended
}

type begun struct {
	at    time.Time
	ended bool
}

// newUnderWay numbers from 1, so that the number of none is known.
func newUnderWay() underWay { return underWay{first: 1, next: 1} }

func (u *underWay) at(number uint64) *begun { return &u.ring[number&uint64(len(u.ring)-1)] }

// begin adds a handshake, and returns its number.
func (u *underWay) begin(now time.Time) uint64 {
	if u.next-u.first == mostKept {
		u.forget()
	}
	if u.next-u.first == uint64(len(u.ring)) {
		u.grow()
	}
	number := u.next
	*u.at(number) = begun{at: now}
	u.next++
	u.count++
	return number
}

func (u *underWay) grow() {
	old := *u
	u.ring = make([]begun, max(16, 2*len(old.ring)))
	for number := old.first; number < old.next; number++ {
		*u.at(number) = *old.at(number)
	}
}

// end takes a handshake out. It does nothing if that does not count any more.
func (u *underWay) end(number uint64) {
	if number < u.first || number >= u.next || u.at(number).ended {
		return
	}
	u.at(number).ended = true
	u.count--
	u.skip()
}

// oldest is when the oldest that counts has begun, if there is one.
func (u *underWay) oldest() (at time.Time, ok bool) {
	if u.count == 0 {
		return time.Time{}, false
	}
	return u.at(u.first).at, true
}

// overtaken is how many that have begun after the oldest have ended.
func (u *underWay) overtaken() int { return int(u.next-u.first) - u.count }

// forget has the oldest count no more.
func (u *underWay) forget() {
	u.first++
	u.count--
	u.skip()
}

// skip lets go what has ended, up to the oldest that has not.
func (u *underWay) skip() {
	for u.first < u.next && u.at(u.first).ended {
		u.first++
	}
}
