//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package keyvault

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// longestLock is the longest wait for another program: another user may hold a lock of a file that he can read.
const longestLock = 2 * time.Second

// lockFile takes the lock of a file between programs, and makes the file if it is missing.
func lockFile(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(longestLock); ; time.Sleep(10 * time.Millisecond) {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		passing := errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR)
		if !passing || time.Now().After(end) {
			_ = file.Close()
			return nil, fmt.Errorf("%s: cannot lock it: %w", path, err)
		}
	}
}
