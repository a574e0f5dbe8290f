// Stands for libcuda.so.1 where a test wants the loader to find a driver. Nothing of it is called.
extern "C" int lola_fake_driver() { return 0; }
