package limit

import (
	"iter"
	"math"
)

// Fair is a queue in which clients are served in turn, however many places one has: each
// has a line of its own, first come first served. All methods but All take constant time.
type Fair[K comparable, T any] struct {
	size    int
	length  int
	lines   map[K]*line[K, T]
	turns   list[K, T]   // lines in the order of their turns
	lengths []list[K, T] // by length, so that the longest is known; 0 is not used
	longest int
	numbers *uint64       // the newest number of a turn
	round   uint64        // of All
	rest    []*line[K, T] // of All: those with more places than one
}

// Place is one that waits.
type Place[K comparable, T any] struct {
	Value      T
	line       *line[K, T] // nil once it waits no more
	prev, next *Place[K, T]
}

// line are the places of one client.
type line[K comparable, T any] struct {
	key         K
	first, last *Place[K, T]
	length      int
	number      uint64       // of its turn
	turn, peer  links[K, T]  // in turns, and among the lines that are as long
	cursor      *Place[K, T] // of All
	round       uint64       // of All: the newest in which this line had its turn
}

// NewFair returns a queue for size places at most. Turns are numbered by *numbers, which
// several queues may have in common.
func NewFair[K comparable, T any](size int, numbers *uint64) *Fair[K, T] {
	return &Fair[K, T]{size: size, numbers: numbers, lines: make(map[K]*line[K, T]), turns: newList(turnOf[K, T])}
}

// Len is how many wait.
func (q *Fair[K, T]) Len() int { return q.length }

// Push adds a place behind the others of its client. If the queue is full, the newest of
// the client with the most places goes, and is returned as dropped. If that is the one
// that comes, there is no place for it.
func (q *Fair[K, T]) Push(key K, value T) (place, dropped *Place[K, T]) {
	if q.length >= q.size {
		own := 0
		if l := q.lines[key]; l != nil {
			own = l.length
		}
		if own+1 >= q.longest {
			return nil, nil
		}
		dropped = q.lengths[q.longest].first.last
		q.Remove(dropped)
	}
	l := q.lineOf(key)
	place = l.insert(l.last, value, nil)
	q.resize(l, 1)
	return place, dropped
}

// Return adds a place that is served next: of one that was served already, for nothing. It
// is added though the queue is full.
func (q *Fair[K, T]) Return(key K, value T) *Place[K, T] {
	l := q.lineOf(key)
	p := l.insert(nil, value, l.first)
	q.resize(l, 1)
	q.turns.remove(l)
	q.turns.pushFront(l)
	l.number = 0
	return p
}

// First is the place that is served next; nil if there is none.
func (q *Fair[K, T]) First() *Place[K, T] {
	if q.turns.first == nil {
		return nil
	}
	return q.turns.first.first
}

// Turn is the number of the turn that is next. Among queues whose turns are numbered
// together, the one with the lowest is served next: so each client has a turn in each of
// them before any has a second one. It is the highest there is if nobody waits.
func (q *Fair[K, T]) Turn() uint64 {
	if q.turns.first == nil {
		return math.MaxUint64
	}
	return q.turns.first.number
}

// Serve takes a place out, and its client's next turn is after those of all others.
func (q *Fair[K, T]) Serve(p *Place[K, T]) {
	l := p.line
	if !q.Remove(p) || l.length == 0 {
		return
	}
	q.turns.remove(l)
	q.lastTurn(l)
}

// Of is the first place of a client; nil if it has none.
func (q *Fair[K, T]) Of(key K) *Place[K, T] {
	if l := q.lines[key]; l != nil {
		return l.first
	}
	return nil
}

// Pass has the client of a place have its next turn after those of all others, as it has
// used this one elsewhere.
func (q *Fair[K, T]) Pass(p *Place[K, T]) {
	q.turns.remove(p.line)
	q.lastTurn(p.line)
}

// lastTurn has a line have its turn after all others.
func (q *Fair[K, T]) lastTurn(l *line[K, T]) {
	*q.numbers++
	l.number = *q.numbers
	q.turns.pushBack(l)
}

// Remove takes a place out, and reports whether it was in. The client keeps its turn.
func (q *Fair[K, T]) Remove(p *Place[K, T]) bool {
	l := p.line
	if l == nil {
		return false
	}
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		l.first = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	} else {
		l.last = p.prev
	}
	p.line, p.prev, p.next = nil, nil, nil
	q.resize(l, -1)
	return true
}

// All are the places in the order in which they are served. While it goes on, nothing but
// the place that it is at may be served or removed.
func (q *Fair[K, T]) All() iter.Seq[*Place[K, T]] {
	return func(yield func(*Place[K, T]) bool) {
		if !q.firsts(yield) {
			return
		}
		for len(q.rest) > 0 {
			more := q.rest[:0]
			for _, l := range q.rest {
				if !l.step(yield) {
					return
				}
				if l.cursor != nil {
					more = append(more, l)
				}
			}
			q.rest = more
		}
	}
}

// firsts yields the first place of each line, and finds out which have more.
func (q *Fair[K, T]) firsts(yield func(*Place[K, T]) bool) bool {
	q.round++
	clear(q.rest[:cap(q.rest)])
	q.rest = q.rest[:0]
	for l := q.turns.first; l != nil && l.round != q.round; { // those that were served are at the end now
		next := l.turn.next
		l.round, l.cursor = q.round, l.first
		if !l.step(yield) {
			return false
		}
		if l.cursor != nil {
			q.rest = append(q.rest, l)
		}
		l = next
	}
	return true
}

// step yields the line's place that All is at, and goes on to the next.
func (l *line[K, T]) step(yield func(*Place[K, T]) bool) bool {
	p := l.cursor
	l.cursor = p.next
	return yield(p)
}

// insert adds a place between two neighbours, of which at the ends there is none.
func (l *line[K, T]) insert(prev *Place[K, T], value T, next *Place[K, T]) *Place[K, T] {
	p := &Place[K, T]{Value: value, line: l, prev: prev, next: next}
	if prev != nil {
		prev.next = p
	} else {
		l.first = p
	}
	if next != nil {
		next.prev = p
	} else {
		l.last = p
	}
	return p
}

// lineOf is the line of a client. A new one has its turn after all others.
func (q *Fair[K, T]) lineOf(key K) *line[K, T] {
	l := q.lines[key]
	if l == nil {
		l = &line[K, T]{key: key}
		q.lines[key] = l
		q.lastTurn(l)
	}
	return l
}

// resize makes a line longer or shorter by one.
func (q *Fair[K, T]) resize(l *line[K, T], by int) {
	if l.length > 0 {
		q.lengths[l.length].remove(l)
	}
	l.length += by
	q.length += by
	for len(q.lengths) <= l.length {
		q.lengths = append(q.lengths, newList(peerOf[K, T]))
	}
	if l.length > 0 {
		q.lengths[l.length].pushBack(l)
	} else {
		q.turns.remove(l)
		delete(q.lines, l.key)
	}
	if l.length > q.longest {
		q.longest = l.length
	} else if q.longest > 0 && q.lengths[q.longest].first == nil {
		q.longest--
	}
}
