package relay

import (
	"errors"
	"io"
)

// endOfStream turns the errors that only mean "the peer has ended its stream"
// into nil. A TLS peer that closes its socket without a close_notify counts:
// many do, and WebSocket's Close frames tell a truncation.
func endOfStream(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}
