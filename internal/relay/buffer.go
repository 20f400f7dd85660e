package relay

import "sync"

// bufferSizes are what a direction reads into: small while it is idle or
// carries small messages, large in bulk transfers. The one between holds a TLS
// record (16 KiB at most), of which a read never returns more than one.
var bufferSizes = [...]int{1 << 10, 20 << 10, 64 << 10}

// pools hold the buffers of each size that no direction uses at the moment.
var pools [len(bufferSizes)]sync.Pool

const largest = len(bufferSizes) - 1

// buffer is a direction's read buffer. It follows the traffic: a read that
// filled it makes it larger, one that would have fit the next smaller size
// makes it smaller. The largest is not kept after a read that did not fill it
// either: for all one knows, a long silence follows.
type buffer struct {
	class int
	b     *[]byte
}

func newBuffer() *buffer {
	return bufferOf(0)
}

func bufferOf(class int) *buffer {
	buf := new(buffer)
	buf.take(class)
	return buf
}

func (buf *buffer) take(class int) {
	buf.class = class
	if b, ok := pools[class].Get().(*[]byte); ok {
		buf.b = b
		return
	}
	b := make([]byte, bufferSizes[class])
	buf.b = &b
}

func (buf *buffer) bytes() []byte { return *buf.b }

func (buf *buffer) free() {
	pools[buf.class].Put(buf.b)
	buf.b = nil
}

// adapt chooses the size for the next read after one that returned n bytes.
func (buf *buffer) adapt(n int) {
	class := buf.class
	switch full := n == bufferSizes[class]; {
	case full && class < largest:
		class++
	case !full && class == largest, class > 0 && n <= bufferSizes[class-1]:
		class--
	default:
		return
	}
	buf.free()
	buf.take(class)
}
