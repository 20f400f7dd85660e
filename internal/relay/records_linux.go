package relay

// mostRecord is how long a record of TLS is at most (RFC 5246 section 6.2.3, of which RFC
// 8446 section 5.2 leaves less), and recordOverhead what it commonly has at most beside
// its data.
const (
	mostRecord     = 5 + 1<<14 + 2048
	recordOverhead = 5 + 256
)

// askEvery is how many small reads in a row it takes to ask what follows them.
const askEvery = 16

// recordQueue reads on from a connection whose Read returns one record of TLS at most, so
// that all that have come are written at once.
type recordQueue struct {
	queue

	small uint8 // reads since it was asked what follows them
}

// records returns nil for a direction whose source is not read on from.
func (l *parkingLot) records(d Direction, src Conn) *recordQueue {
	if l.sources[d] == nil || isBare(src) {
		return nil
	}
	return &recordQueue{queue: queue{socket: l.sources[d].Socket()}}
}

// readOn reads what follows the first n bytes of b, as long as there is more than a whole
// record. That need not be one with data: it may be an update of keys, or padding alone, and
// the next one may be late. So reads have a deadline that comes soon, as n bytes lie there.
func (q *recordQueue) readOn(src Conn, b []byte, n int, l *lull) (int, error) {
	if q == nil || l.conn == nil || !q.worthAsking(b) {
		return n, nil
	}
	for waiting := q.received(); n < len(b) && waiting >= mostRecord; {
		l.hurry()
		m, err := src.Read(b[n:])
		n += m
		if err != nil {
			return n, err
		}
		if waiting -= m + recordOverhead; waiting < mostRecord {
			waiting = q.received()
		}
	}
	return n, nil
}

// worthAsking tells whether there may be so much that it is worth a call to ask, which the
// size of the buffer shows. Of many short records in a row none may fill the smallest.
func (q *recordQueue) worthAsking(b []byte) bool {
	if len(b) > bufferSizes[0] {
		return true
	}
	q.small = (q.small + 1) % askEvery
	return q.small == 0
}
