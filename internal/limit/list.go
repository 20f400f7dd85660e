package limit

// links are where a line stands in a list.
type links[K comparable, T any] struct{ prev, next *line[K, T] }

// list is a list of lines whose links are in the lines, so that each may be in two.
type list[K comparable, T any] struct {
	first, last *line[K, T]
	links       func(*line[K, T]) *links[K, T]
}

func turnOf[K comparable, T any](l *line[K, T]) *links[K, T] { return &l.turn }

func peerOf[K comparable, T any](l *line[K, T]) *links[K, T] { return &l.peer }

func newList[K comparable, T any](of func(*line[K, T]) *links[K, T]) list[K, T] {
	return list[K, T]{links: of}
}

func (s *list[K, T]) pushBack(l *line[K, T]) { s.insert(s.last, l, nil) }

func (s *list[K, T]) pushFront(l *line[K, T]) { s.insert(nil, l, s.first) }

// insert adds a line between two neighbours, of which at the ends there is none.
func (s *list[K, T]) insert(prev, l, next *line[K, T]) {
	*s.links(l) = links[K, T]{prev: prev, next: next}
	if prev != nil {
		s.links(prev).next = l
	} else {
		s.first = l
	}
	if next != nil {
		s.links(next).prev = l
	} else {
		s.last = l
	}
}

func (s *list[K, T]) remove(l *line[K, T]) {
	at := s.links(l)
	if at.prev != nil {
		s.links(at.prev).next = at.next
	} else {
		s.first = at.next
	}
	if at.next != nil {
		s.links(at.next).prev = at.prev
	} else {
		s.last = at.prev
	}
	*at = links[K, T]{}
}
