package limit

import (
	"slices"
	"testing"
)

func valuesOf(q *Fair[int, int]) (values []int) {
	for p := range q.All() {
		values = append(values, p.Value)
	}
	return values
}

func TestClientsAreServedInTurn(t *testing.T) {
	q := NewFair[int, int](10, new(uint64))
	for _, value := range []int{11, 12, 13, 21, 31, 22} {
		q.Push(value/10, value)
	}
	if got, want := valuesOf(q), []int{11, 21, 31, 12, 22, 13}; !slices.Equal(got, want) {
		t.Errorf("in the order of turns they are %v, want %v", got, want)
	}
	q.Serve(q.First())
	if got, want := valuesOf(q), []int{21, 31, 12, 22, 13}; !slices.Equal(got, want) {
		t.Errorf("after one was served: %v, want %v", got, want)
	}
	q.Return(1, 11)
	if got, want := valuesOf(q), []int{11, 21, 31, 12, 22, 13}; !slices.Equal(got, want) {
		t.Errorf("after it has come back: %v, want %v", got, want)
	}
}

// Somebody who opens many connections costs himself a place, and nobody else.
func TestTheLongestLineLosesWhenFull(t *testing.T) {
	q := NewFair[int, int](4, new(uint64))
	for _, value := range []int{11, 12, 13, 21} {
		q.Push(value/10, value)
	}
	if place, dropped := q.Push(1, 14); place != nil || dropped != nil {
		t.Errorf("one more of the longest got %v for %v, want no place", place, dropped)
	}
	for _, c := range []struct{ comes, goes int }{{31, 13}, {41, 12}} {
		place, dropped := q.Push(c.comes/10, c.comes)
		if place == nil || dropped == nil || dropped.Value != c.goes || q.Remove(dropped) {
			t.Errorf("for %d %v goes, want %d", c.comes, dropped, c.goes)
		}
	}
	if place, dropped := q.Push(5, 51); place != nil || dropped != nil {
		t.Errorf("where each has one, the next got %v for %v, want no place", place, dropped)
	}
	if got, want := valuesOf(q), []int{11, 21, 31, 41}; !slices.Equal(got, want) {
		t.Errorf("left are %v, want %v", got, want)
	}
}

func TestPlacesMayGoWhileLookedAt(t *testing.T) {
	q := NewFair[int, int](10, new(uint64))
	for _, value := range []int{11, 12, 13, 21, 31, 32} {
		q.Push(value/10, value)
	}
	var seen []int
	for p := range q.All() {
		seen = append(seen, p.Value)
		switch p.Value {
		case 11, 31:
			q.Serve(p)
		case 21, 12:
			q.Remove(p)
		}
	}
	if want := []int{11, 21, 31, 12, 32, 13}; !slices.Equal(seen, want) {
		t.Errorf("seen were %v, want %v", seen, want)
	}
	if got, want := valuesOf(q), []int{13, 32}; !slices.Equal(got, want) {
		t.Errorf("left are %v, want %v", got, want)
	}
}

// plainQueue is a Fair that anybody can see to be right.
type plainQueue struct {
	turns []int // clients
	of    map[int][]int
}

func (m *plainQueue) order() (values []int) {
	for i := 0; ; i++ {
		before := len(values)
		for _, client := range m.turns {
			if i < len(m.of[client]) {
				values = append(values, m.of[client][i])
			}
		}
		if len(values) == before {
			return values
		}
	}
}

func (m *plainQueue) length() (n int) {
	for _, values := range m.of {
		n += len(values)
	}
	return n
}

func (m *plainQueue) add(client, value int, front bool) {
	if len(m.of[client]) == 0 {
		m.turns = append(m.turns, client)
	}
	if !front {
		m.of[client] = append(m.of[client], value)
		return
	}
	m.of[client] = slices.Insert(m.of[client], 0, value)
	m.turns = slices.DeleteFunc(m.turns, func(c int) bool { return c == client })
	m.turns = slices.Insert(m.turns, 0, client)
}

func (m *plainQueue) remove(client, value int, served bool) {
	m.of[client] = slices.DeleteFunc(m.of[client], func(v int) bool { return v == value })
	if served || len(m.of[client]) == 0 {
		m.turns = slices.DeleteFunc(m.turns, func(c int) bool { return c == client })
	}
	if served && len(m.of[client]) > 0 {
		m.turns = append(m.turns, client)
	}
}

func (m *plainQueue) longest() (length int) {
	for _, values := range m.of {
		length = max(length, len(values))
	}
	return length
}

// plainPair are a queue and its model, to which the same is done.
type plainPair struct {
	t      *testing.T
	queue  *Fair[int, int]
	model  plainQueue
	places map[int]*Place[int, int]
	client map[int]int
}

const fuzzedSize = 12

func (p *plainPair) push(client, value int) {
	full, own, longest := p.model.length() >= fuzzedSize, len(p.model.of[client]), p.model.longest()
	place, dropped := p.queue.Push(client, value)
	switch {
	case full && own+1 >= longest:
		if place != nil || dropped != nil {
			p.t.Fatalf("%d of client %d got a place in a full queue", value, client)
		}
		return
	case full:
		if dropped == nil {
			p.t.Fatal("nobody went though the queue is full")
		}
		of := p.client[dropped.Value]
		line := p.model.of[of]
		if len(line) != longest || line[len(line)-1] != dropped.Value {
			p.t.Fatalf("%d of client %d went, which is not the newest of the longest", dropped.Value, of)
		}
		p.remove(dropped.Value)
	case dropped != nil:
		p.t.Fatal("somebody went though there is room")
	}
	p.places[value], p.client[value] = place, client
	p.model.add(client, value, false)
}

func (p *plainPair) remove(value int) {
	p.queue.Remove(p.places[value])
	p.model.remove(p.client[value], value, false)
	delete(p.places, value)
}

func (p *plainPair) serve(value int) {
	p.queue.Serve(p.places[value])
	p.model.remove(p.client[value], value, true)
	delete(p.places, value)
}

func FuzzFair(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 128, 64, 192, 255})
	f.Add([]byte("a few clients come, go, come back and are served, in one order or another"))
	f.Fuzz(func(t *testing.T, script []byte) {
		p := plainPair{
			t: t, queue: NewFair[int, int](fuzzedSize, new(uint64)), model: plainQueue{of: make(map[int][]int)},
			places: make(map[int]*Place[int, int]), client: make(map[int]int),
		}
		for value, b := range script[:min(len(script), 400)] {
			client, order := int(b&7), p.model.order()
			switch kind := b >> 3 & 7; {
			case kind < 4:
				p.push(client, value)
			case len(order) == 0:
			case kind == 4:
				p.serve(order[0])
			case kind == 5:
				p.remove(order[int(b>>6+b&7)%len(order)])
			case kind == 6:
				p.serve(order[int(b>>6+b&7)%len(order)])
			default:
				p.places[value], p.client[value] = p.queue.Return(client, value), client
				p.model.add(client, value, true)
			}
			got, want := valuesOf(p.queue), p.model.order()
			if !slices.Equal(got, want) || p.queue.Len() != len(want) {
				t.Fatalf("the queue is %v (%d), want %v", got, p.queue.Len(), want)
			}
			if len(want) > 0 && p.queue.First().Value != want[0] {
				t.Fatalf("first is %d, want %d", p.queue.First().Value, want[0])
			}
		}
		for _, value := range p.model.order() {
			p.remove(value)
		}
		if q := p.queue; q.Len() != 0 || q.longest != 0 || len(q.lines) != 0 || q.turns.first != nil || q.First() != nil {
			t.Errorf("an empty queue still has %d places, %d lines", q.length, len(q.lines))
		}
	})
}

func BenchmarkFair(b *testing.B) {
	q := NewFair[int, int](10_000, new(uint64))
	for i := range 10_000 {
		q.Push(i%3_000, i)
	}
	i := 0
	for b.Loop() {
		i++
		q.Serve(q.First())
		q.Push(i%4_000, i)
	}
}
