package keyvault

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxKeyFile is how many bytes a key file has at most.
const maxKeyFile = 64 << 10

// LoadDataKey reads a key file. On Unix it refuses one that another user owns, may read or may write, as ssh does; a
// group of this process may read it, as Kubernetes mounts a secret with fsGroup. Its error is an ErrInvalidRequest.
func LoadDataKey(path string) (*DataKey, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fileError(path, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fileError(path, err)
	}
	if info.Mode().IsRegular() { // a shell makes pipes for <(...)
		if why := whyShared(file, info); why != "" {
			return nil, invalid("%s %s", printable(path), why)
		}
	}
	content, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err != nil {
		return nil, fileError(path, err)
	}
	if len(content) > maxKeyFile {
		return nil, invalid("%s: not a data key: larger than %d bytes", printable(path), maxKeyFile)
	}
	key, err := ParseDataKey(content)
	if err != nil {
		return nil, invalid("%s: %v", printable(path), err)
	}
	return key, nil
}

// LoadOrGenerateKey loads a key file, or makes it with a fresh key of this scope. Of several programs that do it at once,
// all use the key of the one that was first.
func LoadOrGenerateKey(ctx context.Context, vault Vault, path, scope string) (*DataKey, error) {
	key, err := LoadDataKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if key, err = vault.GenerateKey(ctx, scope); err != nil {
		return nil, err
	}
	switch err = key.Save(path); { // before it is used: it cannot be regenerated
	case err == nil:
		return key, nil
	case errors.Is(err, fs.ErrExist):
		return LoadDataKey(path)
	}
	return nil, err
}

// Save writes a new file of mode 0600 that survives a crash. It never replaces a file: the error is then a
// [fs.ErrExist]. There is never a partial file of this name, also after a crash.
func (k *DataKey) Save(path string) error {
	return saved(path, func() error {
		if _, err := os.Lstat(path); err == nil {
			return fs.ErrExist
		}
		draft, err := drafted(path, k.Reveal())
		if err != nil {
			return err
		}
		defer os.Remove(draft)
		err = os.Link(draft, path)
		if err == nil || errors.Is(err, fs.ErrExist) {
			return err
		}
		// A file system without links.
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		return written(file, k.Reveal())
	})
}

// Replace replaces a key file by this key, as for a key that was rewrapped. The old one stays until this one is on the
// disk.
func (k *DataKey) Replace(path string) error {
	return saved(path, func() error {
		target, err := filepath.EvalSymlinks(path) // a symbolic link stays one
		if err != nil {
			return err
		}
		draft, err := drafted(target, k.Reveal())
		if err != nil {
			return err
		}
		if err := os.Rename(draft, target); err != nil {
			return errors.Join(err, os.Remove(draft))
		}
		return nil
	})
}

// saved runs what writes a file, and makes its name durable.
func saved(path string, write func() error) error {
	err := write()
	if err == nil {
		err = syncFolder(filepath.Dir(path))
	}
	if err != nil {
		return fileError(path, err)
	}
	return nil
}

// drafted writes a file of mode 0600 next to the path, durably, and returns its name.
func drafted(path string, content []byte) (string, error) {
	name := filepath.Base(path)
	draft, err := os.CreateTemp(filepath.Dir(path), "."+name[:min(100, len(name))]+".*")
	if err != nil {
		return "", err
	}
	return draft.Name(), written(draft, content)
}

// written writes and closes a file durably, or removes it.
func written(file *os.File, content []byte) error {
	_, err := file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	if closing := file.Close(); err == nil {
		err = closing
	}
	if err != nil {
		_ = os.Remove(file.Name())
	}
	return err
}
