package dial

import (
	"bufio"
	"io"
	"strings"
	"testing"
)

// Readers of answers are used again, for other clients' handshakes.
func TestGluedBytesAreNotThoseOfALaterAnswer(t *testing.T) {
	reader := bufio.NewReader(strings.NewReader("headerglued"))
	a := &Answer{reader: reader}
	if _, err := io.ReadFull(reader, make([]byte, len("header"))); err != nil {
		t.Fatal(err)
	}
	glued := a.Detach().Buffered
	reader.Reset(strings.NewReader("another upstream's secret"))
	if _, err := reader.Peek(1); err != nil {
		t.Fatal(err)
	}
	if string(glued) != "glued" {
		t.Errorf("the tunnel begins with %q, want glued", glued)
	}
}
